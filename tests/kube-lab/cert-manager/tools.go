//go:build tools

// Package certmanager pins cert-manager and the ACME server Pebble, which a test has issue certificates.
//
// The programs of cert-manager are modules that the proxy does not have; controller and acmesolver here start the same libraries.
package certmanager

import (
	_ "github.com/letsencrypt/pebble/v2/cmd/pebble"
	_ "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv"
)
