// Package pipelines runs what examples, the action and the templates put into the CI of others: examples/flux/render.sh
// against Git repositories that people and runs disturb; the workflows and the action by act, on this machine; the
// GitLab template by gitlab-ci-local; the hooks by pre-commit. Actions of others cannot be downloaded here:
// actions/checkout and actions/setup-go are stand-ins, of which the first clones as the real one does.
package pipelines
