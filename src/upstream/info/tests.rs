use super::*;

#[test]
fn a_field_is_found_by_its_whole_name() {
    let info = "# Replication\r\nrole_of_all:x\r\nrole:slave\r\nmaster_host:::1\r\n";
    assert_eq!(field(info, "role"), Some("slave"));
    assert_eq!(field(info, "master_host"), Some("::1"));
    assert_eq!(field(info, "master"), None);
}

#[test]
fn calls_are_found_among_those_of_others() {
    let info = "# Commandstats\r\ncmdstat_get:calls=9,usec=1\r\ncmdstat_config|set:calls=2,usec=1\r\n\
                cmdstat_swapdb:calls=12,usec=3,usec_per_call=0.25\r\n";
    assert_eq!((calls(info, "swapdb"), calls(info, "config|set")), (12, 2));
    assert_eq!((calls(info, "config"), calls(info, "flushall")), (0, 0));
}
