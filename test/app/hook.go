package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// hookGroup is the group that the hook serves as an aggregated API, with the one resource readings, as metrics-server
// does with its own.
const hookGroup = "hook.meshless.test"

const hookVersion = hookGroup + "/v1alpha1"

// hook serves what an API server calls: webhooks of admission and of conversion, and an aggregated API. It has TLS of
// its own, with the certificate of the files, since API servers ask for it.
func hook(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("hook", flag.ContinueOnError)
	port := flags.Int("port", 8443, "port of HTTPS")
	certificate := flags.String("cert", "/tls/tls.crt", "file of the certificate")
	key := flags.String("key", "/tls/tls.key", "file of its key")
	if err := noArgs(flags, args); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(*certificate, *key)
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", ":"+strconv.Itoa(*port), &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		return err
	}
	return serveHTTP(ctx, &http.Server{Handler: newHookHandler()}, lastCall, listener)
}

// newHookHandler serves:
//
//	/validate          AdmissionReview: denies objects with the label deny
//	/mutate            AdmissionReview: adds the label seen-by
//	/convert           ConversionReview: changes the version alone
//	/apis/…/v1alpha1   the aggregated API: readings
//	/healthz           200
func newHookHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /validate", review(validate))
	mux.HandleFunc("POST /mutate", review(mutate))
	mux.HandleFunc("POST /convert", review(convert))
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /apis/"+hookVersion, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": hookVersion, "resources": []object{
			{"name": "readings", "singularName": "reading", "namespaced": true, "kind": "Reading", "verbs": []string{"get", "list"}},
		}})
	})
	mux.HandleFunc("GET /apis/"+hookVersion+"/namespaces/{namespace}/readings", func(w http.ResponseWriter, r *http.Request) {
		item := object{"kind": "Reading", "apiVersion": hookVersion, "metadata": object{"name": "first", "namespace": r.PathValue("namespace")}, "value": 42}
		writeJSON(w, object{"kind": "ReadingList", "apiVersion": hookVersion, "metadata": object{}, "items": []object{item}})
	})
	return mux
}

// object is a part of a Kubernetes object.
type object = map[string]any

// review answers the request of a review with what judge makes of it. The answer names the request.
func review(judge func(request object) (response object, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var asked struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Request    object `json:"request"`
		}
		err := json.NewDecoder(io.LimitReader(r.Body, maxEcho)).Decode(&asked)
		var response object
		if err == nil {
			response, err = judge(asked.Request)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response["uid"] = asked.Request["uid"]
		writeJSON(w, object{"apiVersion": asked.APIVersion, "kind": asked.Kind, "response": response})
	}
}

func validate(request object) (object, error) {
	if _, denied := labelsOf(request)["deny"]; denied {
		return object{"allowed": false, "status": object{"message": "the hook denies it"}}, nil
	}
	return object{"allowed": true}, nil
}

func mutate(request object) (object, error) {
	labels := labelsOf(request)
	if labels == nil {
		labels = object{}
	}
	labels["seen-by"] = "hook"
	patch, err := json.Marshal([]object{{"op": "add", "path": "/metadata/labels", "value": labels}})
	return object{"allowed": true, "patchType": "JSONPatch", "patch": patch}, err
}

func labelsOf(request object) object {
	sent, _ := request["object"].(object)
	metadata, _ := sent["metadata"].(object)
	labels, _ := metadata["labels"].(object)
	return labels
}

func convert(request object) (object, error) {
	objects, ok := request["objects"].([]any)
	if !ok {
		return nil, fmt.Errorf("no objects in %v", request)
	}
	for _, each := range objects {
		if converted, ok := each.(object); ok {
			converted["apiVersion"] = request["desiredAPIVersion"]
		}
	}
	return object{"convertedObjects": objects, "result": object{"status": "Success"}}, nil
}
