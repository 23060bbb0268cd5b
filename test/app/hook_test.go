package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestHook asks as an API server does.
func TestHook(t *testing.T) {
	for _, test := range []struct{ method, path, body, want string }{
		{"POST", "/validate", `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","object":{"metadata":{}}}}`, `"response":{"allowed":true,"uid":"u"}`},
		{"POST", "/validate", `{"request":{"uid":"u","object":{"metadata":{"labels":{"deny":""}}}}}`, `"allowed":false`},
		{"POST", "/mutate", `{"request":{"uid":"u","object":{"metadata":{}}}}`, `"patchType":"JSONPatch"`},
		{"POST", "/convert", `{"request":{"uid":"u","desiredAPIVersion":"g/v2","objects":[{"apiVersion":"g/v1","kind":"Widget"}]}}`, `"convertedObjects":[{"apiVersion":"g/v2","kind":"Widget"}]`},
		{"POST", "/convert", `{"request":{}}`, "no objects"},
		{"POST", "/validate", `[`, "unexpected"},
		{"GET", "/apis/hook.meshless.test/v1alpha1", "", `"name":"readings"`},
		{"GET", "/apis/hook.meshless.test/v1alpha1/namespaces/shop/readings", "", `"namespace":"shop"`},
	} {
		recorder := httptest.NewRecorder()
		newHookHandler().ServeHTTP(recorder, httptest.NewRequest(test.method, test.path, strings.NewReader(test.body)))
		if answer := recorder.Body.String(); !strings.Contains(answer, test.want) {
			t.Errorf("%s %s: %s, want %s", test.path, test.body, answer, test.want)
		} else if recorder.Code == http.StatusOK && !json.Valid(recorder.Body.Bytes()) {
			t.Errorf("%s: %s is not JSON", test.path, answer)
		}
	}
}
