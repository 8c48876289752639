//! A file system that is really full: a small one in memory, with something else in it.

use super::*;

/// A mounted file system of a few megabytes; unmounted when dropped.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    /// `None`: this user may not mount one.
    fn mount(bytes: usize) -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let is_mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
        is_mounted.then_some(Small { dir })
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_of_costs_only_itself_and_is_used_again_when_there_is_room() {
    let Some(small) = Small::mount(8 << 20) else {
        eprintln!("not tested: this user may not mount a small file system");
        return;
    };
    let path = small.dir.path().join("l3");
    let ballast = small.dir.path().join("ballast");
    std::fs::write(&ballast, vec![1; 13 << 19]).unwrap();
    let server = Server::start();
    set_all(&server, 1);
    let toml = format!(
        "[cache]\nl1 = \"1MiB\"\nmax_value = \"64KiB\"\nshards = 1\n\
         [l3]\npath = \"{}\"\nsize = \"16MiB\"\nadmission = \"all\"\n",
        path.display()
    );
    let proxy = Proxy::with_config(&server.url(), &toml, &[]);
    let mut client = proxy.client();
    let state = |state: &str| proxy.metric("nearcache_l3_state", &[&format!("state=\"{state}\"")]);
    eventually("the trouble is told", STEP, || {
        read_all(&mut client, 1);
        state("trouble") == Some(1.0)
    });
    assert!(proxy.metric("nearcache_l3_faults_total", &["reason=\"write\""]) > Some(0.0));
    let info = client.text(&["INFO", "nearcache"]);
    assert!(
        info.contains("nearcache_l3_trouble:") && info.contains("No space left on device"),
        "{info}"
    );
    assert!(proxy.log().contains("No space left on device"), "{}", proxy.log());
    // It goes on: what is on the disk serves, writes are seen, and evicted entries are dropped, not piled up.
    let hits = || proxy.metric("cache_hits_total", &["cache_layer=\"l3\""]).unwrap();
    let before = hits();
    set_all(&server, 2);
    eventually("the last write is seen", STEP, || {
        client.bulk(&["GET", &format!("k{}", KEYS - 1)]) == Some(value(KEYS - 1, 2).into_bytes())
    });
    read_all(&mut client, 2);
    read_all(&mut client, 2);
    eventually("nothing waits", STEP, || {
        proxy.metric("nearcache_l3_queued_bytes", &[]) == Some(0.0)
    });
    std::fs::remove_file(&ballast).unwrap();
    // The pause between two tries has grown to 30 seconds at most.
    eventually("it works again", Duration::from_secs(60), || {
        read_all(&mut client, 2);
        state("working") == Some(1.0) && l3(&proxy, "entries") > KEYS as f64 * 0.5
    });
    read_all(&mut client, 2);
    assert!(hits() > before);
    assert!(proxy.log().contains("the medium works again"), "{}", proxy.log());
}
