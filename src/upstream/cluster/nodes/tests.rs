use super::{Preferred, Seen, has_hostnames, parse, preferred, redirected};
use crate::config::Endpoint;

fn at(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp {
        host: host.to_owned(),
        port,
    }
}

#[test]
fn lines_of_all_versions_are_understood() {
    let text = "07c3 127.0.0.1:30004@31004,host4 slave e7d1 0 1426238317239 4 connected\n\
                67ed 127.0.0.1:30002@31002,,shard-id=1 master - 0 1426238316232 2 connected 5461-10922 3\n\
                e7d1 :30001@31001 myself,master - 0 0 1 connected 0-2 [93-<-67ed] [77->-67ed]\n\
                6ec2 127.0.0.1:30003 master,fail - 1426238318243 1426238316232 3 disconnected 10923-16383\n\
                aaaa :0@0 master,noaddr - 0 0 0 disconnected\n\
                \n\
                rubbish\n";
    let mut seen = parse(text, &at("n1", 1), Preferred::Address);
    let named: Vec<(String, String)> = seen
        .iter_mut()
        .map(|seen| (std::mem::take(&mut seen.id), std::mem::take(&mut seen.follows)))
        .collect();
    assert_eq!(named[0], ("07c3".to_owned(), "e7d1".to_owned()));
    assert_eq!(named[1], ("67ed".to_owned(), "-".to_owned()));
    let primary = |endpoint, epoch, slots: &[(u16, u16)]| Seen {
        endpoint,
        is_primary: true,
        id: String::new(),
        follows: String::new(),
        is_failed: false,
        epoch,
        slots: slots.to_vec(),
        moving: Vec::new(),
    };
    assert_eq!(
        seen,
        [
            Seen {
                is_primary: false,
                ..primary(Some(at("127.0.0.1", 30004)), 4, &[])
            },
            primary(Some(at("127.0.0.1", 30002)), 2, &[(5461, 10922), (3, 3)]),
            Seen {
                moving: vec![93, 77],
                ..primary(Some(at("n1", 30001)), 1, &[(0, 2)])
            },
            Seen {
                is_failed: true,
                ..primary(Some(at("127.0.0.1", 30003)), 3, &[(10923, 16383)])
            },
            primary(None, 0, &[]),
        ]
    );
}

#[test]
fn a_slot_that_there_cannot_be_makes_the_line_worthless() {
    assert!(
        parse(
            "a 1.1.1.1:1@2 master - 0 0 1 connected 0-16384",
            &at("n", 1),
            Preferred::Address
        )
        .is_empty()
    );
    assert!(
        parse(
            "a 1.1.1.1:1@2 master - 0 0 x connected 0-1",
            &at("n", 1),
            Preferred::Address
        )
        .is_empty()
    );
}

#[test]
fn a_redirection_without_a_host_means_the_one_that_was_asked() {
    assert_eq!(redirected("10.0.0.1:7", &at("n", 1)), Some(at("10.0.0.1", 7)));
    assert_eq!(redirected(":7", &at("n", 1)), Some(at("n", 7)));
    assert_eq!(redirected("::1:7", &at("n", 1)), Some(at("::1", 7)));
    assert_eq!(redirected("n:0", &at("n", 1)), None);
    assert_eq!(redirected("n", &at("n", 1)), None);
}

#[test]
fn a_node_is_called_as_it_wants_to_be() {
    let text = "a 10.0.0.1:7000@17000,one.example master - 0 0 1 connected 0-5\n\
                b 10.0.0.2:7000@17000 slave a 0 0 1 connected\n";
    let hosts = |preferred| -> Vec<_> {
        let seen = parse(text, &at("n1", 1), preferred);
        seen.into_iter()
            .filter_map(|seen| Some(seen.endpoint?.to_string()))
            .collect()
    };
    assert_eq!(hosts(Preferred::Address), ["10.0.0.1:7000", "10.0.0.2:7000"]);
    assert_eq!(hosts(Preferred::Hostname), ["one.example:7000", "10.0.0.2:7000"]);
    assert!(has_hostnames(text) && !has_hostnames("b 10.0.0.2:7000@17000,,shard-id=1 slave a 0 0 1 connected\n"));
    let slots = |names: &str| {
        let text = format!("*1\r\n*3\r\n:0\r\n:5\r\n*4\r\n$11\r\none.example\r\n:7000\r\n$1\r\na\r\n{names}");
        preferred(text.as_bytes())
    };
    assert_eq!(slots("*2\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n"), Preferred::Hostname);
    assert_eq!(slots("%1\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n"), Preferred::Hostname);
    assert_eq!(slots("*2\r\n$8\r\nhostname\r\n$1\r\nx\r\n"), Preferred::Address);
    assert_eq!(slots("*0\r\n"), Preferred::Address);
    assert_eq!(preferred(b"-ERR no\r\n"), Preferred::Address);
}
