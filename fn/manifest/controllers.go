package manifest

// controller composes the pods of its kinds itself.
type controller struct {
	why string // an injection cannot work there
	way string // into the mesh all the same, as the end of a sentence; "" where there is none
}

// controllers are kinds whose controllers compose the pods themselves. For Knative, test/kinds holds it against
// Knative's own validation.
var controllers = map[string]controller{
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

var (
	// No way: who calls an app of Knative is its activator, which is no workload of the package.
	knative = controller{why: "Knative refuses it: its webhook lets no pod template have lifecycle hooks, or init containers with NET_ADMIN, and puts a proxy of its own before the app"}
	// Injected when they are made, the pods have our init container first, and the proxy as a native sidecar: that is
	// none of the sidecars of the entry.
	workflows = controller{
		why: "Argo Workflows composes the pod itself: its own init container stands before those of the entry, so it would fetch artifacts before the redirect, " +
			"and its container \"wait\" kills the sidecars of the entry while it saves them",
		way: "; its pods can be injected when they are made, with Kubernetes 1.36 or later: give them a label (spec.templates[].metadata.labels) and declare them by it in spec.workloads.declared",
	}
	tekton = controller{
		why: "Tekton composes the pod itself: it has no field for an init container with NET_ADMIN, and ends sidecars with an image of its own in their place",
		way: "; its pods can be injected when they are made, with Kubernetes 1.36 or later: declare them by a label that they have (tekton.dev/task, or one of the TaskRun) in spec.workloads.declared",
	}
)
