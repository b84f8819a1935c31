//! The harness itself: certificates that clients accept, raw bytes that arrive as they were sent.

use ingress_tests::{Certs, RawBackend, RawClient};

#[test]
fn a_raw_client_can_send_what_no_library_would() {
    let backend = RawBackend::answering("HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let mut client = RawClient::connect(backend.address()).unwrap();
    client
        .send_byte_by_byte("GET / HTTP/1.1\nHost:\0\r\n\r\n")
        .unwrap();
    client.read_until("\r\n\r\n").unwrap();
    assert_eq!(backend.received(), [b"GET / HTTP/1.1\nHost:\0\r\n\r\n".to_vec()]);
}

#[test]
fn every_certificate_is_signed_by_the_authority_of_its_test() {
    let certs = Certs::new().unwrap();
    let leaf = certs.leaf(&["shop.test", "*.shop.test"]).unwrap();
    assert!(leaf.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(leaf.key.contains("PRIVATE KEY"));
    assert_ne!(certs.authority_pem(), leaf.certificate);
}
