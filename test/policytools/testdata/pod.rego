package lib.pod

# Exempt are containers with an image that exemptImages names: those of the library, a prefix when it ends in *.
exempt(c) {
  image := object.get(object.get(input, "parameters", {}), "exemptImages", [])[_]
  prefix := trim_suffix(image, "*")
  startswith(c.image, prefix)
}

containers[c] {
  c := object.get(input.review.object.spec, "containers", [])[_]
  not exempt(c)
}

containers[c] {
  c := object.get(input.review.object.spec, "initContainers", [])[_]
  not exempt(c)
}

# effective is a field of the container, or else of the pod.
effective(c, field) = value {
  value := c.securityContext[field]
}

effective(c, field) = value {
  not has(object.get(c, "securityContext", {}), field)
  value := input.review.object.spec.securityContext[field]
}

has(o, field) { _ := o[field] }

resource(c, part, name) { c.resources[part][name] }
