//! Files of `/etc` that a step sees instead of its image's.

/// `/etc/hosts` as BuildKit writes it (rule R6).
pub(crate) fn hosts_text(hostname: &str, extra: &[(String, String)]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

pub(crate) fn host_resolv_conf() -> Vec<u8> {
    use std::io::Read;
    let mut bytes = Vec::new();
    // A machine without one still builds; only names do not resolve there.
    if let Ok(file) = std::fs::File::open("/etc/resolv.conf") {
        let _ = file.take(1024 * 1024).read_to_end(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_as_buildkit() {
        let extra = [
            ("db".to_owned(), "10.0.0.7".to_owned()),
            ("v6".to_owned(), "fd00::1".to_owned()),
        ];
        assert_eq!(
            hosts_text("buildkitsandbox", &extra),
            "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\nfd00::1\tv6\n"
        );
    }
}
