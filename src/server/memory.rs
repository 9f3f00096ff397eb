//! How much memory this process uses and may use, as the kernel says.

use std::fs;
use std::path::{Path, PathBuf};

/// The limit of the control group that this process is in, or of one around it, in bytes. `None`: there is none.
pub(super) fn control_group_limit() -> Option<u64> {
    limit_below(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// `groups` is `/proc/self/cgroup`; `root` is where control groups are mounted.
fn limit_below(root: &Path, groups: &str) -> Option<u64> {
    groups.lines().filter_map(|line| memory_file(root, line)).flat_map(|(folder, file)| limits(&folder, file)).min()
}

/// The folder of the group and the name of the file with its limit, for a line `number:controllers:path`.
fn memory_file(root: &Path, line: &str) -> Option<(PathBuf, &'static str)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let path = path.trim_start_matches('/');
    match controllers {
        "" => Some((root.join(path), "memory.max")),
        _ if controllers.split(',').any(|name| name == "memory") => {
            Some((root.join("memory").join(path), "memory.limit_in_bytes"))
        }
        _ => None,
    }
}

/// The limits of a group and of those around it.
fn limits(folder: &Path, file: &str) -> Vec<u64> {
    // In a container the path may be that of the host, and the group itself is what is mounted: the folders that do not
    // exist here are passed over.
    folder.ancestors().take(DEEPEST).filter_map(|folder| parse(&fs::read_to_string(folder.join(file)).ok()?)).collect()
}

/// A limit; `max`, and what version 1 shows instead, is none.
fn parse(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < UNLIMITED)
}

/// Groups around this one that are looked at.
const DEEPEST: usize = 32;
/// No machine has as much.
const UNLIMITED: u64 = 1 << 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn group(root: &Path, path: &str, file: &str, limit: &str) {
        fs::create_dir_all(root.join(path)).expect("a folder");
        fs::write(root.join(path).join(file), limit).expect("a file");
    }

    #[test]
    fn the_lowest_limit_of_the_group_and_those_around_it_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        group(root, "pod/container", "memory.max", "max\n");
        group(root, "pod", "memory.max", "1000000\n");
        group(root, "", "memory.max", "2000000\n");
        assert_eq!(limit_below(root, "0::/pod/container\n"), Some(1_000_000));
        assert_eq!(limit_below(root, "0::/\n"), Some(2_000_000));
        assert_eq!(limit_below(root, "0::/somewhere/on/the/host\n"), Some(2_000_000));
    }

    #[test]
    fn version_1_has_a_hierarchy_for_memory_and_a_large_number_for_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        group(root, "memory/docker/x", "memory.limit_in_bytes", "536870912\n");
        group(root, "memory", "memory.limit_in_bytes", "9223372036854771712\n");
        let groups = "12:cpu,cpuacct:/docker/x\n7:memory:/docker/x\n0::/\n";
        assert_eq!(limit_below(root, groups), Some(536_870_912));
        assert_eq!(limit_below(root, "7:memory:/\n"), None);
        assert_eq!(limit_below(root, "nonsense\n\n3:cpu:/docker/x\n"), None);
    }
}
