//! How many workers fit: the CPUs this process may run on, cut to the CPU quota of its control group.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// The number of workers that follows the machine: the quota rounded up, at most one per allowed CPU, at least 1.
#[must_use]
pub fn default_workers() -> usize {
    let allowed = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| allowed_cpus(&status))
        .or_else(|| thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    quota(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
        .map_or(allowed, |quota| allowed.min(quota))
        .max(1)
}

/// The `Cpus_allowed_list` of `/proc/self/status`, e.g. `0-3,8`, counted.
fn allowed_cpus(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list.trim().split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + last.checked_sub(first)? + 1)
    })
}

/// The tightest quota from the process's group up to the root, in whole CPUs, rounded up. `membership` is
/// `/proc/self/cgroup`: `0::/path` for version 2, `4:cpu,cpuacct:/path` for version 1.
fn quota(root: &Path, membership: &str) -> Option<usize> {
    membership
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let path = path.trim_start_matches('/');
            if controllers.is_empty() {
                tightest(root, path, &quota_v2)
            } else if controllers.split(',').any(|name| name == "cpu") {
                tightest(&root.join("cpu"), path, &quota_v1)
            } else {
                None
            }
        })
        .min()
}

fn tightest(root: &Path, path: &str, read: &dyn Fn(&Path) -> Option<usize>) -> Option<usize> {
    // In a container the group's path may be the host's, of which only the last part (mounted as the root)
    // is visible; levels that cannot be read are passed over.
    let group: PathBuf = root.join(path);
    group.ancestors().take_while(|level| level.starts_with(root)).filter_map(read).min()
}

fn quota_v2(group: &Path) -> Option<usize> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let mut fields = text.split_ascii_whitespace();
    cpus(fields.next()?, fields.next()?)
}

fn quota_v1(group: &Path) -> Option<usize> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    cpus(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

/// `max` (version 2) and `-1` (version 1) mean no quota and do not parse.
fn cpus(quota: &str, period: &str) -> Option<usize> {
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| quota.div_ceil(period).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("created");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn a_fraction_of_a_cpu_is_one_worker_and_one_and_a_half_are_two() {
        assert_eq!(cpus("10000", "100000"), Some(1));
        assert_eq!(cpus("100000", "100000"), Some(1));
        assert_eq!(cpus("150000", "100000"), Some(2));
        assert_eq!(cpus("max", "100000"), None);
        assert_eq!(cpus("-1", "100000"), None);
        assert_eq!(cpus("1", "0"), None);
    }

    #[test]
    fn the_tightest_level_of_version_2_counts() {
        let root = tempfile::tempdir().expect("a directory");
        write(root.path(), "a/cpu.max", "200000 100000\n");
        write(root.path(), "a/b/cpu.max", "max 100000\n");
        write(root.path(), "cpu.max", "300000 100000\n");
        assert_eq!(quota(root.path(), "0::/a/b\n"), Some(2));
        assert_eq!(quota(root.path(), "0::/elsewhere\n"), Some(3));
    }

    #[test]
    fn version_1_is_read_from_its_own_hierarchy() {
        let root = tempfile::tempdir().expect("a directory");
        write(root.path(), "cpu/x/cpu.cfs_quota_us", "250000\n");
        write(root.path(), "cpu/x/cpu.cfs_period_us", "100000\n");
        assert_eq!(quota(root.path(), "5:memory:/x\n4:cpu,cpuacct:/x\n"), Some(3));
        assert_eq!(quota(root.path(), "5:memory:/x\n"), None);
    }

    #[test]
    fn allowed_cpus_are_counted_over_ranges() {
        assert_eq!(allowed_cpus("Name:\tx\nCpus_allowed_list:\t0-3,8,10-11\n"), Some(7));
        assert_eq!(allowed_cpus("Name:\tx\n"), None);
        assert_eq!(allowed_cpus("Cpus_allowed_list:\t3-1\n"), None);
    }

    #[test]
    fn there_is_at_least_one_worker_here() {
        assert!(default_workers() >= 1);
    }
}
