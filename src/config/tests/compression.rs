//! Settings of compression.

use super::read;

#[test]
fn compression_that_could_do_nothing_is_refused() {
    for (text, problem) in [
        (
            "compression = \"lz4\"\ncompress_from = \"65537B\"",
            "cache.compress_from: must be at most 64KiB",
        ),
        (
            "compression = \"lz4\"\nconsistency = \"strong\"",
            "cache.compression: must be off where cache.consistency is \"strong\"",
        ),
    ] {
        let problems = read(&format!("[cache]\n{text}")).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(problem), "{problems:?}");
    }
    assert!(read("[cache]\ncompression = \"zstd:6\"\ncompress_from = \"64KiB\"").is_ok());
    for tier in ["cache", "l3"] {
        let problems = read(&format!("[{tier}]\ncompress_from = \"2KiB\"")).unwrap_err();
        let problem = format!("{tier}.compress_from: has no effect: set {tier}.compression to lz4 or zstd");
        assert!(problems.len() == 1 && problems[0].contains(&problem), "{problems:?}");
        assert!(read(&format!("[{tier}]\ncompression = \"lz4\"\ncompress_from = \"2KiB\"")).is_ok());
    }
    // As they are printed.
    assert!(read("[cache]\ncompress_from = \"1KiB\"\n[l3]\ncompress_from = \"512B\"").is_ok());
}
