// Package callers proves that an API server, which has no identity, gets through to what it calls in the mesh: webhooks
// of admission, with failurePolicy Fail, those that convert versions, and an aggregated API. No setting is needed for
// it, and the ports take no plaintext all the same.
package callers
