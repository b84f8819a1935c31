use serde_json::Value;

use super::*;

fn unpack(archive: &Path, into: &Path) {
    std::fs::create_dir_all(into).unwrap();
    let status = Command::new("tar")
        .args(["--extract", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(into)
        .status();
    assert!(status.unwrap().success());
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The file that a descriptor names, after its size and digest were compared.
fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap();
    let path = layout
        .join("blobs/sha256")
        .join(digest.strip_prefix("sha256:").unwrap());
    assert_eq!(size(&path).unwrap(), descriptor["size"].as_u64().unwrap());
    assert_eq!(format!("sha256:{}", layout::sha256(&path).unwrap()), digest);
    path
}

#[test]
fn an_image_is_whole_by_its_digests_and_its_program_runs_with_nothing_else_around() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar");
    // Any program that loads libraries.
    let image = pack(Path::new("/bin/echo"), "registry.test:5000/agent:1.2.3", &archive).unwrap();
    let layout = folder.path().join("layout");
    unpack(&archive, &layout);
    assert_eq!(json(&layout.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let index = json(&layout.join("index.json"));
    let listed = &index["manifests"][0];
    assert_eq!(
        listed["annotations"]["org.opencontainers.image.ref.name"],
        "1.2.3"
    );
    assert_eq!(listed["digest"], format!("sha256:{}", image.manifest));
    let manifest = json(&blob(&layout, listed));
    let config = json(&blob(&layout, &manifest["config"]));
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/ingress-agent");
    let layer = blob(&layout, &manifest["layers"][0]);
    let root = folder.path().join("root");
    unpack(&layer, &root);
    for place in [ROOTS_IN_IMAGE, "etc/passwd", "run/ingress-agent-pod"] {
        assert!(root.join(place).exists(), "{place}");
    }
    // Only root may change the root.
    let output = Command::new("unshare")
        .args(["--map-root-user", "chroot"])
        .arg(&root)
        .args(["/usr/bin/ingress-agent", "it runs"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "it runs\n", "{output:?}");
}

#[test]
fn the_same_files_give_the_same_image() {
    let folder = tempfile::tempdir().unwrap();
    let digest = |name: &str| {
        let archive = folder.path().join(name);
        pack(Path::new("/bin/echo"), "agent:1", &archive).unwrap();
        layout::sha256(&archive).unwrap()
    };
    assert_eq!(digest("one.tar"), digest("two.tar"));
}

#[test]
fn libraries_are_those_with_a_path_and_the_loader_is_one() {
    let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
    let found = loaded(ldd);
    assert_eq!(
        found,
        ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
    );
    assert!(loaded("\tstatically linked\n").is_empty());
}
