//! A fixed number of executions of each fuzz target, with a fixed seed, besides the kept corpus (tests/fuzz/corpus).

use ingress_tests::fuzz::{self, run};

#[test]
fn a_path_is_refused_or_becomes_normal_and_keeps_its_meaning() {
    run(&fuzz::PATH);
}

#[test]
fn a_host_is_refused_or_becomes_a_plain_lower_case_name() {
    run(&fuzz::HOST);
}

#[test]
fn matching_finds_what_a_naive_matcher_finds() {
    run(&fuzz::MATCHING);
}

#[test]
fn what_the_wire_gate_lets_pass_reads_the_same_to_a_strict_reader_httparse_and_hyper() {
    run(&fuzz::HTTP1);
}

#[test]
fn frames_of_http2_are_judged_alike_however_they_are_cut_and_as_a_naive_reader_would() {
    run(&fuzz::HTTP2);
}

#[test]
fn no_manifest_brings_the_agent_down_or_floods_it_with_diagnostics() {
    run(&fuzz::MANIFESTS);
}

#[test]
fn no_certificate_or_key_brings_the_agent_down() {
    run(&fuzz::CERTIFICATES);
}

#[test]
fn no_annotation_changes_anything_but_its_own_ingress() {
    run(&fuzz::ANNOTATIONS);
}

#[test]
fn a_proxy_protocol_header_is_decided_once_and_for_all() {
    run(&fuzz::PROXY_PROTOCOL);
}

#[test]
fn no_client_hello_brings_the_handshake_down() {
    run(&fuzz::CLIENT_HELLO);
}

#[test]
fn a_name_that_the_kernel_is_sure_of_is_the_one_that_user_space_reads() {
    run(&fuzz::FIRST_WORDS);
}
