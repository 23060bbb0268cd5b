package manifest

// Index finds pods by the selectors of Services. It looks at the pods that share the selector's rarest label alone, so
// that the cost of a Service does not grow with the number of workloads. T is what stands for a pod.
type Index[T any] struct {
	pods   []indexed[T]
	byPair map[pair][]int
}

type indexed[T any] struct {
	labels map[string]string
	pod    T
}

type pair struct{ namespace, key, value string }

// Add puts a pod into the index.
func (x *Index[T]) Add(namespace string, labels map[string]string, pod T) {
	if x.byPair == nil {
		x.byPair = map[pair][]int{}
	}
	for key, value := range labels {
		p := pair{namespace, key, value}
		x.byPair[p] = append(x.byPair[p], len(x.pods))
	}
	x.pods = append(x.pods, indexed[T]{labels, pod})
}

// Select returns the pods of a namespace that carry every label of the selector, in the order of Add. An empty selector
// selects nothing, as it does in a Service.
func (x *Index[T]) Select(namespace string, selector map[string]string) []T {
	var rarest []int
	first := true
	for key, value := range selector {
		if numbers := x.byPair[pair{namespace, key, value}]; first || len(numbers) < len(rarest) {
			rarest, first = numbers, false
		}
	}
	var selected []T
	for _, n := range rarest {
		if carries(x.pods[n].labels, selector) {
			selected = append(selected, x.pods[n].pod)
		}
	}
	return selected
}

// WithLabel returns the pods of a namespace that carry one label, in the order of Add.
func (x *Index[T]) WithLabel(namespace, key, value string) []T {
	var found []T
	for _, n := range x.byPair[pair{namespace, key, value}] {
		found = append(found, x.pods[n].pod)
	}
	return found
}

func carries(labels, selector map[string]string) bool {
	for key, value := range selector {
		if have, ok := labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}
