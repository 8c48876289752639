//! Clients that know clusters, and take the proxy for one.

use std::process::Command;

use crate::clients::{ends_well, python, script_path, with_node};
use crate::support::Proxy;
use crate::support::cluster::Cluster;

#[test]
fn redis_py_cluster() {
    let Some(python) = python() else { return };
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    for protocol in ["2", "3"] {
        let mut command = Command::new(&python);
        command
            .arg(script_path("redis_py_cluster.py"))
            .arg(proxy.port().to_string())
            .arg(protocol);
        ends_well(command, &format!("RedisCluster with protocol {protocol}"));
    }
}

#[test]
fn ioredis_cluster() {
    with_node("ioredis", |modules| {
        let cluster = Cluster::start();
        let proxy = Proxy::before(&cluster.url(), &[]);
        let mut command = Command::new("node");
        command
            .arg(script_path("ioredis_cluster.cjs"))
            .arg(proxy.port().to_string())
            .arg(modules);
        ends_well(command, "ioredis Cluster");
    });
}

#[test]
fn redis_cli_in_cluster_mode_and_redis_benchmark() {
    let cluster = Cluster::start();
    let proxy = Proxy::before(&cluster.url(), &[]);
    let port = proxy.port().to_string();
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        let set = Command::new("redis-cli")
            .args(["-c", "-p", &port, "SET", key, value])
            .output();
        assert_eq!(set.expect("redis-cli runs").stdout, b"OK\n");
        let got = Command::new("redis-cli").args(["-c", "-p", &port, "GET", key]).output();
        assert_eq!(got.expect("redis-cli runs").stdout, format!("{value}\n").into_bytes());
    }
    for options in [
        &["-t", "set,get,incr,mset"][..],
        &["-P", "16", "-t", "set,get", "-r", "1000"],
    ] {
        let output = Command::new("redis-benchmark")
            .args(["-p", &port, "-n", "2000", "--csv"])
            .args(options)
            .output()
            .expect("redis-benchmark runs");
        let text = [output.stdout, output.stderr]
            .map(|t| String::from_utf8_lossy(&t).into_owned())
            .concat();
        assert!(
            output.status.success() && text.contains("\"GET\""),
            "{options:?}: {text}"
        );
        assert!(!text.to_ascii_lowercase().contains("error"), "{options:?}: {text}");
    }
}
