package rewrite

// Same is same.
var Same = same
