//go:build tools

// Package helm pins the program that renders and installs deploy/chart, for `cargo xtask deploy` and the cluster tests.
package helm

import _ "helm.sh/helm/v3/cmd/helm"
