package manifest

// controllers are kinds whose controllers compose the pods themselves, and why an injection cannot work there. For
// Knative, test/kinds holds it against Knative's own validation.
var controllers = map[string]string{
	"argoproj.io/Workflow":                workflows,
	"argoproj.io/WorkflowTemplate":        workflows,
	"argoproj.io/ClusterWorkflowTemplate": workflows,
	"argoproj.io/CronWorkflow":            workflows,
	"tekton.dev/Task":                     tekton,
	"tekton.dev/ClusterTask":              tekton,
	"tekton.dev/TaskRun":                  tekton,
	"tekton.dev/Pipeline":                 tekton,
	"tekton.dev/PipelineRun":              tekton,
	"tekton.dev/StepAction":               tekton,
	"serving.knative.dev/Service":         knative,
	"serving.knative.dev/Configuration":   knative,
	"serving.knative.dev/Revision":        knative,
}

const (
	knative   = "Knative refuses it: its webhook lets no pod template have lifecycle hooks, or init containers with NET_ADMIN, and puts a proxy of its own before the app"
	workflows = "Argo Workflows composes the pod itself: its own init container stands before those of the entry, so it would fetch artifacts before the redirect, " +
		"and its container \"wait\" kills the sidecars of the entry while it saves them"
	tekton = "Tekton composes the pod itself: it has no field for an init container with NET_ADMIN, and ends sidecars with an image of its own in their place"
)
