//! The process itself, from `/proc` at the time of a scrape. What cannot be read is left out.

use super::{Kind, Labels, Text};

/// `USER_HZ` as the kernel shows it to programs: 100 on every architecture Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn encode(text: &mut Text) {
    let none = Labels::none();
    if let Some(bytes) = resident_bytes() {
        text.family("process_resident_memory_bytes", Kind::Gauge, "Resident memory.");
        text.sample(&none, bytes);
    }
    if let Some(ticks) = cpu_ticks() {
        text.family("process_cpu_seconds_total", Kind::Counter, "User and system CPU time.");
        // Exact up to 2^53 ticks, which is three million years.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        text.sample(&none, ticks as f64 / TICKS_PER_SECOND);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        text.family("process_open_fds", Kind::Gauge, "Open file descriptors.");
        text.sample(&none, entries.count());
    }
}

/// Memory of this process that is in RAM; `None` where that cannot be read.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn cpu_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_and_cpu_of_this_process_can_be_read() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
        assert!(cpu_ticks().is_some());
    }
}
