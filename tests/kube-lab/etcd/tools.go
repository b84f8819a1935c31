//go:build tools

// Package etcd pins the store behind the API server that `cargo xtask kube build` builds.
package etcd

import _ "go.etcd.io/etcd/server/v3"
