//! Flags of docker's `run` that there are not, and what to do instead.

/// Flags of docker's that this command does not have, and what helps.
const REFUSED: [(&[&str], &str); 9] = [
    (
        &[
            "-d",
            "--detach",
            "--name",
            "--restart",
            "--cidfile",
            "--detach-keys",
        ],
        "rbuild keeps no containers, and waits for the command: podman runs images (rbuild save IMAGE | podman load)",
    ),
    (
        &[
            "-p",
            "--publish",
            "-P",
            "--publish-all",
            "--expose",
            "--link",
            "--ip",
        ],
        "nothing listens for others here: use --network host, or podman (rbuild save IMAGE | podman load)",
    ),
    (
        &[
            "--privileged",
            "--cap-add",
            "--cap-drop",
            "--security-opt",
            "--userns",
            "--cgroupns",
            "--pid",
            "--ipc",
            "--uts",
        ],
        "the command runs in the sandbox of RUN; `rbuild build` has --cap-add, --cap-drop and --security-opt for steps",
    ),
    (
        &["--mount", "--tmpfs", "--volumes-from", "--volume-driver"],
        "use -v PATH:PATH; what is written elsewhere is thrown away, or kept by --commit",
    ),
    (
        &["--read-only"],
        "the command may write, and what it writes is thrown away",
    ),
    (
        &["--device", "--gpus", "--runtime", "--device-cgroup-rule"],
        "no devices of the machine are in the sandbox",
    ),
    (
        &["--init"],
        "the sandbox looks after processes that lose their parent by itself: leave it out",
    ),
    (
        &[
            "-l",
            "--label",
            "--label-file",
            "--annotation",
            "--log-driver",
            "--log-opt",
        ],
        "there is no container to describe: LABEL of a Dockerfile, or commit -c 'LABEL ...', is for images",
    ),
    (
        &[
            "--health-cmd",
            "--health-interval",
            "--health-retries",
            "--health-timeout",
            "--no-healthcheck",
        ],
        "nobody looks after the health of the command",
    ),
];

/// Why docker's flag `text` is refused. Of letters that stand together the first that is refused counts.
pub(super) fn reason(text: &str) -> Option<&'static str> {
    let name = text.split('=').next().unwrap_or_default();
    let find = |flag: &str| {
        let found = REFUSED.iter().find(|(flags, _)| flags.contains(&flag));
        found.map(|(_, reason)| *reason)
    };
    match name.strip_prefix('-') {
        Some(letters) if !letters.starts_with('-') => {
            letters.chars().find_map(|letter| find(&format!("-{letter}")))
        }
        _ => find(name),
    }
}
