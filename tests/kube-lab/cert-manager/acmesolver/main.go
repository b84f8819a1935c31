// Command acmesolver answers one HTTP-01 challenge: cert-manager's own solver, with the flags that its controller gives the Pod.
package main

import (
	"flag"
	"log"

	"github.com/cert-manager/cert-manager/pkg/issuer/acme/http/solver"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
)

func main() {
	var http01 solver.HTTP01Solver
	flag.IntVar(&http01.ListenPort, "listen-port", 8089, "port to listen on")
	flag.StringVar(&http01.Domain, "domain", "", "name that is being proved")
	flag.StringVar(&http01.Token, "token", "", "the challenge's token")
	flag.StringVar(&http01.Key, "key", "", "the answer")
	flag.Parse()
	log.Fatal(http01.Listen(logf.Log))
}
