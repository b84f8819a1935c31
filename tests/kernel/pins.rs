//! XDP links that outlive their agent: pinned in a bpffs of the case's own, which goes with the case's mounts.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use ingress_tests::AgentProcess;

use crate::Done;
use crate::agent::{Site, wait};

const DIR: &str = "INGRESS_TEST_BPFFS";
/// Serves, and has something that XDP judges: one source is denied.
const FLAGS: [&str; 4] = ["--http", ":80", "--kernel-deny", "10.77.1.7/32"];

/// Runs the case `name` of this module with a bpffs that nobody else sees.
fn inside(name: &str, case: impl FnOnce(&Path) -> Done) -> Done {
    if let Some(dir) = std::env::var_os(DIR) {
        return case(Path::new(&dir));
    }
    if Site::new()?.is_none() {
        return Ok(());
    }
    if let Err(error) = Command::new("bpftool").arg("version").output() {
        // Not by println, which libtest keeps to itself when a test passes.
        let _ = writeln!(std::io::stderr(), "skipped: bpftool: {error}");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .args(["mount -t bpf bpf \"$0\" && exec \"$@\""])
        .arg(dir.path())
        .arg(format!("/proc/{}/exe", std::process::id()))
        .args(["--exact", &format!("pins::{name}"), "--nocapture"])
        .env(DIR, dir.path())
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.success() && text.contains("1 passed"),
        "failed inside"
    );
    Ok(())
}

fn flags<'a>(dir: &'a Path, more: &[&'a str]) -> anyhow::Result<Vec<&'a str>> {
    Ok([
        &FLAGS[..],
        &["--bpffs", dir.to_str().context("a path in words")?],
        more,
    ]
    .concat())
}

/// Every name below the directory.
fn names(dir: &Path) -> Vec<PathBuf> {
    let format = std::fs::read_dir(dir.join("v1")).into_iter().flatten().flatten();
    format.map(|entry| entry.path()).collect()
}

fn links(dir: &Path) -> Vec<PathBuf> {
    let is_link = |path: &PathBuf| path.to_string_lossy().contains("/xdp-");
    names(dir).into_iter().filter(is_link).collect()
}

/// The number of the link on `node0`, and of the program in it: the link's stays for as long as the device is not touched.
fn on_node0(dir: &Path) -> anyhow::Result<(u64, u64)> {
    let [link] = &links(dir)[..] else {
        anyhow::bail!("not one link: {:?}", names(dir));
    };
    let output = Command::new("bpftool")
        .args(["-j", "link", "show", "pinned"])
        .arg(link)
        .output()?;
    let link: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let number = |name: &str| link[name].as_u64().with_context(|| link.to_string());
    Ok((number("id")?, number("prog_id")?))
}

fn program_on(site: &Site, interface: &str) -> anyhow::Result<String> {
    let output = site
        .net
        .node
        .command()
        .args(["ip", "-d", "link", "show", interface])
        .output()?;
    Ok(String::from_utf8(output.stdout)?)
}

fn is_let_in(site: &Site) -> anyhow::Result<bool> {
    site.net.client.run(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&std::net::SocketAddr::new("10.77.1.7".parse()?, 0).into())?;
        let to = std::net::SocketAddr::new(crate::namespace::NODE.parse()?, 80).into();
        let result = socket.connect_timeout(&to, std::time::Duration::from_millis(700));
        // Refused by the kernel, say, is let in too: XDP's verdict is silence.
        Ok(!matches!(result, Err(error) if error.kind() == std::io::ErrorKind::TimedOut))
    })
}

fn pinned(site: &Site, pid: u32) -> anyhow::Result<String> {
    let status = site.status(pid)?;
    let at = &status["kernel"]["rejection"]["interfaces"][0];
    Ok(at["pinned"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn the_link_on_a_device_stays_through_restarts_crashes_and_hand_overs() -> Done {
    inside(
        "the_link_on_a_device_stays_through_restarts_crashes_and_hand_overs",
        |bpffs| {
            let Some(site) = Site::new()? else { return Ok(()) };
            let dir = bpffs.join("agent");
            let flags = flags(&dir, &["--hand-over-overlap", "300ms"])?;
            let first = site.start(&flags)?;
            let (link, program) = on_node0(&dir)?;
            assert_eq!(pinned(&site, first.pid())?, links(&dir)[0].display().to_string());
            assert!(!is_let_in(&site)?);

            // Handed over: in place, at once, and tc of neither judges headers again.
            let second = site.start(&flags)?;
            let (still, other) = on_node0(&dir)?;
            assert_eq!(still, link, "never taken off");
            assert_ne!(other, program);
            assert!(!is_let_in(&site)?);
            site.wait_for_phase(first.pid(), "draining")?;
            drop(first);
            assert_eq!(on_node0(&dir)?, (link, other), "the older one leaves it as it is");
            assert_eq!(
                site.interfaces(second.pid())?,
                [("node0".to_owned(), "xdp (native) and tc".to_owned())]
            );

            // Killed: nobody is denied any more by what is left.
            second.kill();
            assert_eq!(on_node0(&dir)?, (link, other));
            wait("what a crash leaves passes everything", || is_let_in(&site))?;

            // And again, many times: nothing piles up.
            for round in 0..10 {
                let agent = site.start(&flags)?;
                let (still, now) = on_node0(&dir)?;
                assert_eq!(still, link, "round {round}");
                if round % 2 == 0 {
                    assert!(!is_let_in(&site)?, "round {round}");
                    agent.kill();
                } else {
                    // Ends by its signal: what it leaves is another program, which has no table to go by.
                    agent.end()?;
                    let (still, left) = on_node0(&dir)?;
                    assert_eq!(still, link, "round {round}");
                    assert_ne!(left, now, "round {round}");
                    assert!(is_let_in(&site)?, "round {round}");
                }
                assert_eq!(names(&dir).len(), 3, "a link and two programs: {:?}", names(&dir));
            }
            let said = site.kernel(&["status", "--bpffs", &dir.to_string_lossy()])?;
            assert!(
                said.contains("pinned: ") && said.contains("XDP on interface"),
                "{said}"
            );
            site.kernel(&["detach", "--bpffs", &dir.to_string_lossy()])?;
            assert!(!dir.exists(), "{:?}", names(&dir));
            wait("it is off the device", || {
                Ok(!program_on(&site, "node0")?.contains("xdp"))
            })
        },
    )
}

#[test]
fn an_agent_without_xdp_or_by_order_takes_what_is_pinned_off() -> Done {
    inside(
        "an_agent_without_xdp_or_by_order_takes_what_is_pinned_off",
        |bpffs| {
            let Some(site) = Site::new()? else { return Ok(()) };
            let dir = bpffs.join("agent");
            for off in [
                ["--kernel", "off"],
                ["--kernel-rejection", "off"],
                ["--kernel-xdp", "off"],
            ] {
                site.start(&flags(&dir, &[])?)?.kill();
                assert_eq!(links(&dir).len(), 1, "{off:?}");
                let _agent = site.start(&flags(&dir, &off)?)?;
                assert!(!dir.exists(), "{off:?}: {:?}", names(&dir));
                assert!(!program_on(&site, "node0")?.contains("xdp"), "{off:?}");
            }
            let _agent = site.start(&flags(&dir, &[])?)?;
            assert_eq!(links(&dir).len(), 1);
            site.kernel(&["detach", "--bpffs", &dir.to_string_lossy()])?;
            assert!(!dir.exists(), "{:?}", names(&dir));
            wait("it is off the device", || {
                Ok(!program_on(&site, "node0")?.contains("xdp"))
            })
        },
    )
}

#[test]
fn one_that_takes_over_and_dies_at_once_gives_xdp_back() -> Done {
    inside("one_that_takes_over_and_dies_at_once_gives_xdp_back", |bpffs| {
        let Some(site) = Site::new()? else { return Ok(()) };
        let dir = bpffs.join("agent");
        // With what a pod gets: no CAP_SYS_ADMIN, no CAP_DAC_OVERRIDE.
        let start = |more: &[&str]| {
            let prefix = ["setpriv", "--bounding-set=-all,+cap_12,+cap_38,+cap_39"];
            AgentProcess::watch(&mut site.command(&prefix, &flags(&dir, more)?))
        };
        let older = start(&["--hand-over-overlap", "10m"])?;
        let (link, program) = on_node0(&dir)?;
        let newer = start(&[])?;
        site.wait_for_phase(older.pid(), "handing over")?;
        assert_ne!(on_node0(&dir)?.1, program);
        newer.kill();
        site.wait_for_phase(older.pid(), "serving")?;
        wait("its program is back", || Ok(on_node0(&dir)? == (link, program)))?;
        assert!(!is_let_in(&site)?);
        assert_eq!(
            site.interfaces(older.pid())?,
            [("node0".to_owned(), "xdp (native) and tc".to_owned())]
        );
        Ok(())
    })
}

#[test]
fn garbage_foreign_pins_other_formats_and_interfaces_that_are_gone_are_handled_and_said() -> Done {
    inside(
        "garbage_foreign_pins_other_formats_and_interfaces_that_are_gone_are_handled_and_said",
        |bpffs| {
            let Some(site) = Site::new()? else { return Ok(()) };
            let dir = bpffs.join("agent");
            let flags = flags(&dir, &[])?;
            site.start(&flags)?.kill();
            let (link, _) = on_node0(&dir)?;
            let place = links(&dir)[0].clone();

            // As a later version's, or an earlier one's, layout would have it: the same link in another place.
            let elsewhere = dir.join("v9");
            std::fs::create_dir(&elsewhere)?;
            std::fs::rename(&place, elsewhere.join("node0"))?;
            // And a map where the link belongs.
            let made = Command::new("bpftool")
                .args(["map", "create"])
                .arg(&place)
                .args([
                    "type", "array", "key", "4", "value", "4", "entries", "1", "name", "garbage",
                ])
                .status()?;
            ensure!(made.success(), "bpftool: {made}");
            let agent = site.start(&flags)?;
            assert_eq!(on_node0(&dir)?.0, link, "without a gap");
            assert!(std::fs::read_dir(&elsewhere)?.next().is_none(), "moved");
            agent.log_line("what was in its place", |line| {
                line["message"]
                    .as_str()
                    .is_some_and(|text| text.contains("is replaced"))
            })?;

            // An interface that vanishes takes its pin along; another one with its name is another one.
            let make = [
                "link add late0 type veth peer name late1".to_owned(),
                "addr add 10.78.0.2/16 dev late0".to_owned(),
                "link set late0 up".to_owned(),
                "link set late1 up".to_owned(),
            ];
            for round in 0..2 {
                site.net.node.ip(&make)?;
                wait(&format!("it is pinned, round {round}"), || {
                    Ok(links(&dir).len() == 2)
                })?;
                site.net.node.ip(&["link del late0".to_owned()])?;
                wait(&format!("it is gone, round {round}"), || {
                    Ok(links(&dir).len() == 1)
                })?;
            }
            // Also while no agent is there to see it.
            site.net.node.ip(&make)?;
            wait("it is pinned", || Ok(links(&dir).len() == 2))?;
            agent.kill();
            site.net.node.ip(&["link del late0".to_owned()])?;
            let agent = site.start(&flags)?;
            assert_eq!(links(&dir), std::slice::from_ref(&place));

            // Somebody else's program, in our directory: it stays where it is.
            agent.kill();
            for name in names(&dir).into_iter().filter(|name| *name != place) {
                std::fs::remove_file(name)?;
            }
            let before = on_node0(&dir)?;
            let agent = site.start(&flags)?;
            assert_eq!(on_node0(&dir)?, before);
            assert_eq!(
                site.interfaces(agent.pid())?,
                [("node0".to_owned(), "tc".to_owned())]
            );
            let dir = dir.to_string_lossy();
            let said = site.kernel(&["status", "--bpffs", &dir])?;
            assert!(
                said.contains("is not an agent's") && said.contains("which is not ours"),
                "{said}"
            );
            let said = site.kernel(&["detach", "--bpffs", &dir])?;
            assert!(said.contains("not ours; it stays"), "{said}");
            assert!(place.exists());
            Ok(())
        },
    )
}

#[test]
fn without_a_bpffs_xdp_ends_with_its_agent_and_that_is_said() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let plain = tempfile::tempdir()?;
    let dir = plain.path().join("agent");
    let agent = site.start(&flags(&dir, &[])?)?;
    let said = site.kernel(&["status"])?;
    assert!(
        said.contains("XDP is not pinned") && said.contains("is not in a mounted bpffs"),
        "{said}"
    );
    assert!(said.contains("node0 by xdp (native) and tc"), "{said}");
    agent.kill();
    wait("it is off the device", || {
        Ok(!program_on(&site, "node0")?.contains("xdp"))
    })
}

#[test]
fn two_agents_that_both_serve_do_not_take_xdp_from_each_other() -> Done {
    inside(
        "two_agents_that_both_serve_do_not_take_xdp_from_each_other",
        |bpffs| {
            let Some(site) = Site::new()? else { return Ok(()) };
            let dir = bpffs.join("agent");
            let first = site.start(&flags(&dir, &[])?)?;
            let (link, program) = on_node0(&dir)?;
            let flags: Vec<_> = flags(&dir, &[])?
                .into_iter()
                .map(|flag| if flag == ":80" { ":81" } else { flag })
                .collect();
            let second = site.start(&flags)?;
            let (still, newer) = on_node0(&dir)?;
            assert_eq!(still, link);
            assert_ne!(newer, program);
            // Whatever happens to interfaces, and however often both look at them.
            let has_late = |agent: &AgentProcess| {
                let interfaces = site.interfaces(agent.pid())?;
                anyhow::Ok(interfaces.iter().any(|(name, _)| name == "late0"))
            };
            for round in 0..3 {
                site.net.node.ip(&[
                    "link add late0 type veth peer name late1".to_owned(),
                    "addr add 10.78.0.2/16 dev late0".to_owned(),
                    "link set late0 up".to_owned(),
                ])?;
                wait(&format!("both have looked, round {round}"), || {
                    Ok(has_late(&first)? && has_late(&second)?)
                })?;
                site.net.node.ip(&["link del late0".to_owned()])?;
                wait(&format!("both have looked again, round {round}"), || {
                    Ok(!has_late(&first)? && !has_late(&second)? && links(&dir).len() == 1)
                })?;
                assert_eq!(on_node0(&dir)?, (link, newer), "round {round}");
            }
            let by = |agent: &AgentProcess| site.interfaces(agent.pid());
            assert_eq!(by(&first)?, [("node0".to_owned(), "tc".to_owned())]);
            assert_eq!(
                by(&second)?,
                [("node0".to_owned(), "xdp (native) and tc".to_owned())]
            );
            assert!(!is_let_in(&site)?, "what is the older one's is judged by tc");
            Ok(())
        },
    )
}

#[test]
fn what_was_pinned_generically_is_taken_off_by_auto() -> Done {
    inside("what_was_pinned_generically_is_taken_off_by_auto", |bpffs| {
        let Some(site) = Site::new()? else { return Ok(()) };
        let dir = bpffs.join("agent");
        // No bridge takes XDP natively.
        site.net.node.ip(&[
            "link add late0 type bridge".to_owned(),
            "addr add 10.78.0.2/16 dev late0".to_owned(),
            "link set late0 up".to_owned(),
        ])?;
        let on = site.start(&flags(&dir, &["--kernel-xdp", "on"])?)?;
        let late = |agent: &AgentProcess| {
            let interfaces = site.interfaces(agent.pid())?;
            anyhow::Ok(interfaces.into_iter().find(|(name, _)| name == "late0"))
        };
        let by = |by: &str| Some(("late0".to_owned(), by.to_owned()));
        assert_eq!(late(&on)?, by("xdp (generic) and tc"));
        assert_eq!(links(&dir).len(), 2);
        on.kill();
        let auto = site.start(&flags(&dir, &[])?)?;
        assert_eq!(late(&auto)?, by("tc"));
        wait("it is off the device", || {
            Ok(links(&dir).len() == 1 && !program_on(&site, "late0")?.contains("xdp"))
        })
    })
}

#[test]
fn an_agent_whose_programs_lost_their_names_leaves_nothing_that_the_next_one_does_not_know() -> Done {
    inside(
        "an_agent_whose_programs_lost_their_names_leaves_nothing_that_the_next_one_does_not_know",
        |bpffs| {
            let Some(site) = Site::new()? else { return Ok(()) };
            let dir = bpffs.join("agent");
            let flags = flags(&dir, &[])?;
            let agent = site.start(&flags)?;
            let (link, _) = on_node0(&dir)?;
            // As an agent of another network namespace tidies up what no link runs.
            let place = links(&dir)[0].clone();
            for name in names(&dir).into_iter().filter(|name| *name != place) {
                std::fs::remove_file(name)?;
            }
            agent.end()?;
            let next = site.start(&flags)?;
            assert_eq!(on_node0(&dir)?.0, link);
            assert_eq!(
                site.interfaces(next.pid())?,
                [("node0".to_owned(), "xdp (native) and tc".to_owned())]
            );
            Ok(())
        },
    )
}
