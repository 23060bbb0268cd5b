package manifest

// Index finds pods by the selectors of Services. It looks at the pods that share the selector's rarest label alone, so
// that the cost of a Service does not grow with the number of workloads.
type Index struct {
	labels []map[string]string
	byPair map[pair][]int
}

type pair struct{ namespace, key, value string }

// Add puts a pod into the index and returns its number: 0, 1, …
func (x *Index) Add(namespace string, labels map[string]string) int {
	if x.byPair == nil {
		x.byPair = map[pair][]int{}
	}
	n := len(x.labels)
	x.labels = append(x.labels, labels)
	for key, value := range labels {
		p := pair{namespace, key, value}
		x.byPair[p] = append(x.byPair[p], n)
	}
	return n
}

// Select returns the numbers of the pods of a namespace that carry every label of the selector, in the order of Add. An
// empty selector selects nothing, as it does in a Service.
func (x *Index) Select(namespace string, selector map[string]string) []int {
	var rarest []int
	first := true
	for key, value := range selector {
		if numbers := x.byPair[pair{namespace, key, value}]; first || len(numbers) < len(rarest) {
			rarest, first = numbers, false
		}
	}
	var selected []int
	for _, n := range rarest {
		if carries(x.labels[n], selector) {
			selected = append(selected, n)
		}
	}
	return selected
}

func carries(labels, selector map[string]string) bool {
	for key, value := range selector {
		if have, ok := labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}
