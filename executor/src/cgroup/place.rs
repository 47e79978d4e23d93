//! Where the kernel's controllers are, and in which cgroup this process is.

use std::path::{Path, PathBuf};

use crate::resources::Controller;

/// The cgroup of this process, for one controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a hierarchy of the first version.
    V1(PathBuf),
    /// In the hierarchy of the second version; its root, as far as it is mounted.
    V2 { own: PathBuf, root: PathBuf },
}

/// Finds the cgroup that has `controller`, from the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
/// `has` says whether a cgroup of the second version offers a controller.
pub(crate) fn find(
    controller: Controller,
    cgroup: &str,
    mountinfo: &str,
    has: impl Fn(&Path) -> bool,
) -> Option<Place> {
    let mut second = None;
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if id == "0" && controllers.is_empty() {
            second = Some(path);
        } else if controllers.split(',').any(|name| name == controller.name()) {
            let (own, _) = mounted(mountinfo, "cgroup", Some(controller), path)?;
            return Some(Place::V1(own));
        }
    }
    let (own, root) = mounted(mountinfo, "cgroup2", None, second?)?;
    has(&own).then_some(Place::V2 { own, root })
}

/// The directory of a cgroup's `path`, and where its hierarchy is mounted.
fn mounted(
    mountinfo: &str,
    fs: &str,
    controller: Option<Controller>,
    path: &str,
) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let kind = after.next()?;
        let options = after.nth(1)?;
        let right = kind == fs
            && controller.is_none_or(|wanted| options.split(',').any(|option| option == wanted.name()));
        if !right {
            return None;
        }
        let mut before = before.split(' ').skip(3);
        let (root, at) = (before.next()?, before.next()?);
        // A path outside of what is mounted begins with `/..`.
        let below = Path::new(path).strip_prefix(root).ok()?;
        let below_is_clean = !below.components().any(|part| part.as_os_str() == "..");
        below_is_clean.then(|| (Path::new(at).join(below), PathBuf::from(at)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/a /sys/fs/cgroup/memory rw,relatime shared:1 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn cgroups_are_found() {
        let own = "4:memory:/docker/a/b\n1:cpu,cpuacct:/\n0::/user.slice/x\n";
        let find = |controller| find(controller, own, HYBRID, |_| true);
        assert_eq!(
            find(Controller::Memory),
            Some(Place::V1("/sys/fs/cgroup/memory/b".into()))
        );
        assert_eq!(
            find(Controller::Cpu),
            Some(Place::V1("/sys/fs/cgroup/cpu,cpuacct".into()))
        );
        assert_eq!(
            find(Controller::Pids),
            Some(Place::V2 {
                own: "/sys/fs/cgroup/unified/user.slice/x".into(),
                root: "/sys/fs/cgroup/unified".into()
            })
        );
        assert_eq!(super::find(Controller::Pids, own, HYBRID, |_| false), None);
        assert_eq!(super::find(Controller::Pids, own, "", |_| true), None);
        let outside = "4:memory:/../c\n";
        assert_eq!(super::find(Controller::Memory, outside, HYBRID, |_| true), None);
    }
}
