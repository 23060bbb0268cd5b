package controlplane

// unreadable are manifests of others that kyaml cannot read, with its reason.
var unreadable = map[string]string{
	"linkerd-inject/inject_gettest_deployment.bad.input.yml": "did not find expected key",
}

const (
	ofIstio       = "is Istio's; a pod can be in one mesh only"
	ofLinkerd     = "is Linkerd's; a pod can be in one mesh only"
	noNamespace   = "subjects[0].namespace: Required value"
	nativeSidecar = "is a native sidecar, which would start before the proxy"
	badName       = `metadata.name: "statusPort" in namespace "default": Kubernetes accepts no such name`
)

// refusedInputs are manifests of others that a render refuses, with the reason.
var refusedInputs = map[string]string{
	"istio-inject/gateway.yaml":                                      ofIstio,
	"istio-inject/gateway-spire.yaml":                                ofIstio,
	"istio-inject/gateway-with-default-container.yaml":               ofIstio,
	"istio-inject/hello-openshift-custom-injection.yaml":             ofIstio,
	"istio-inject/merge-probers.yaml":                                ofIstio,
	"istio-inject/multiple-templates.yaml":                           ofIstio,
	"istio-inject/only-proxy-container.yaml":                         ofIstio,
	"istio-inject/proxy-override.yaml":                               ofIstio,
	"istio-inject/proxy-override-args.yaml":                          ofIstio,
	"istio-inject/proxy-override-runas.yaml":                         ofIstio,
	"istio-inject/status_annotations.yaml":                           badName,
	"istio-inject/status_annotations_zeroport.yaml":                  badName,
	"istio-inject/status_params.yaml":                                badName,
	"linkerd-inject/inject_emojivoto_already_injected.input.yml":     ofLinkerd,
	"linkerd-inject/inject_emojivoto_istio.input.yml":                ofIstio,
	"linkerd-inject/inject_emojivoto_list_empty_resources.input.yml": "list: items: is no object", // null
	"gatekeeper":           "restricted forbids the capability NET_ADMIN",
	"knative post-install": "generateName: storage-version-migration-serving- makes a new one at every apply",
	"metadata-agent":       "resources.requests.cpu: cannot be read: has a key that is no text", // {{ metadata_agent_cpu_request }}
	"linkerd-inject/inject_tap_deployment.input.yml": ofLinkerd,
}

// refusedAsContainer are those that only sidecar.mode: Container refuses.
var refusedAsContainer = map[string]string{
	"istio-inject/native-sidecar.yaml":        nativeSidecar,
	"istio-inject/native-sidecar-opt-in.yaml": nativeSidecar,
}

// refusedObjects are what the API server refuses of manifests of others, before as after a render, with the reason.
var refusedObjects = map[string]map[string]string{
	"csi-gce-pd": {
		"ClusterRoleBinding csi-gce-pd-controller-attacher-binding":    noNamespace,
		"ClusterRoleBinding csi-gce-pd-controller-provisioner-binding": noNamespace,
		"ClusterRoleBinding csi-gce-pd-controller-snapshotter-binding": noNamespace,
		"ClusterRoleBinding csi-gce-pd-resizer-binding":                noNamespace,
		"ClusterRoleBinding psp-csi-controller-driver-registrar-role":  noNamespace,
	},
	"node-problem-detector":                   {"DaemonSet node-problem-detector": ".spec.template.spec.nodeSelectors: field not declared in schema"},
	"linkerd-inject/inject_contour.input.yml": {"Deployment contour": `volumeMounts[0].name: Not found: "contour-config"`},
	"linkerd-inject/inject_gettest_deployment.good.input.yml": {
		"Deployment get-test-deploy-injected-1": "spec.selector: Required value",
		"Deployment get-test-deploy-injected-2": "spec.selector: Required value",
	},
}
