// Says which version of the suite `cargo xtask kube suite` builds; nothing is built from here, as the suite reads files beside its source.
module kube-lab/ingress-suite

go 1.26.8

require sigs.k8s.io/ingress-controller-conformance v0.0.0-20210427175938-f91a7996369a
