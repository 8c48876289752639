use super::*;
use crate::metrics::names;

#[test]
fn durations_of_all_workers_are_one_histogram_in_seconds() {
    let (one, other) = (Durations::default(), Durations::default());
    one.add_batch(0, 3);
    one.add_batch(1, 1);
    other.add_batch(3000, 2);
    other.add_batch(u64::from(u32::MAX), 1);
    let mut out = Exposition::default();
    out.add_durations(&names::CACHE_DURATION, &[("cache_layer", "l1")], [&one, &other]);
    let text = out.text().unwrap();
    let line = |le: &str| format!("cache_operation_duration_seconds_bucket{{cache_layer=\"l1\",le=\"{le}\"}}");
    for (le, count) in [
        ("0.000001", 3),
        ("0.000002", 4),
        ("0.001024", 4),
        ("0.002048", 6),
        ("16.777216", 6),
        ("+Inf", 7),
    ] {
        assert!(text.contains(&format!("{} {count}\n", line(le))), "{le}: {text}");
    }
    assert_eq!(text.matches("_bucket{").count(), Durations::BUCKETS);
    assert!(text.contains("_count{cache_layer=\"l1\"} 7\n"), "{text}");
    assert!(text.contains("_sum{cache_layer=\"l1\"} 4294.970296\n"), "{text}");
}

#[test]
fn samples_of_one_metric_stand_together() {
    let mut out = Exposition::default();
    out.add(&names::CACHE_HITS, &[("cache_layer", "l1")], 7.0);
    out.add(&names::UPTIME, &[], 1.5);
    out.add(&names::CACHE_HITS, &[("cache_layer", "a \"quoted\" one")], 0.0);
    let text = out.text().unwrap();
    assert_eq!(text.matches("# TYPE cache_hits_total counter\n").count(), 1, "{text}");
    assert!(
        text.contains(
            "cache_hits_total{cache_layer=\"l1\"} 7\ncache_hits_total{cache_layer=\"a \\\"quoted\\\" one\"} 0\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("# TYPE nearcache_uptime_seconds gauge\nnearcache_uptime_seconds 1.5\n"),
        "{text}"
    );
}

#[test]
fn json_tells_the_same() {
    let durations = Durations::default();
    durations.add_batch(6, 2);
    let mut out = Exposition::default();
    out.add(&names::CACHE_HITS, &[("cache_layer", "l1")], 7.0);
    out.add(&names::UPTIME, &[], 1.5);
    out.add_durations(&names::CACHE_DURATION, &[("operation", "get")], [&durations]);
    let json = out.json();
    let hits = &json["cache_hits_total"];
    assert_eq!(hits["type"], "counter");
    assert_eq!(hits["samples"], json!([{"labels": {"cache_layer": "l1"}, "value": 7}]));
    assert_eq!(json["nearcache_uptime_seconds"]["samples"][0]["value"], 1.5);
    let sample = &json["cache_operation_duration_seconds"]["samples"][0];
    assert_eq!((&sample["count"], &sample["sum"]), (&json!(2), &json!(6e-6)));
    let buckets = sample["buckets"].as_array().unwrap();
    assert_eq!(buckets[1], json!({"le": 2e-6, "count": 0}));
    assert_eq!(buckets[2], json!({"le": 4e-6, "count": 2}));
    assert_eq!(buckets.last().unwrap(), &json!({"le": 16.777216, "count": 2}));
}
