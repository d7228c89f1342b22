//! `process_*`: what the kernel says about this process, in the names that all Prometheus clients use.

use std::fs;

use base::metrics::Text;

/// Writes what can be read; what cannot is left out.
pub(super) fn write(text: &mut Text) {
    let page = rustix::param::page_size() as f64;
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let stat = Stat::parse(&read("/proc/self/stat"));
    let mut sample = |name: &str, help: &str, kind: &str, value: Option<f64>| {
        if let Some(value) = value {
            text.family(name, help, kind);
            text.sample(name, &[], value);
        }
    };
    let cpu = stat.as_ref().map(|stat| (stat.user_ticks + stat.system_ticks) / ticks);
    sample("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", "counter", cpu);
    let resident = stat.as_ref().map(|stat| stat.resident_pages * page);
    sample("process_resident_memory_bytes", "Resident memory size in bytes.", "gauge", resident);
    let virtual_bytes = stat.as_ref().map(|stat| stat.virtual_bytes);
    sample("process_virtual_memory_bytes", "Virtual memory size in bytes.", "gauge", virtual_bytes);
    let threads = stat.as_ref().map(|stat| stat.threads);
    sample("process_threads", "Number of OS threads in the process.", "gauge", threads);
    let boot = boot_seconds(&read("/proc/stat"));
    let start = stat.as_ref().zip(boot).map(|(stat, boot)| boot + stat.start_ticks / ticks);
    sample("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", "gauge", start);
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    sample("process_open_fds", "Number of open file descriptors.", "gauge", open);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    sample("process_max_fds", "Maximum number of open file descriptors.", "gauge", limit.map(|limit| limit as f64));
}

/// What is taken from `/proc/self/stat`, as proc(5) describes it.
#[derive(Debug, PartialEq)]
struct Stat {
    user_ticks: f64,
    system_ticks: f64,
    threads: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in brackets, and may hold spaces and brackets itself.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        // The first of these is field 3.
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_seconds(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_is_skipped() {
        let text = "7 (a (b) c) S 1 7 7 0 -1 4194560 90 0 0 0 11 5 0 0 20 0 3 0 250 8192 42 18446744073709551615";
        let expected = Stat {
            user_ticks: 11.0,
            system_ticks: 5.0,
            threads: 3.0,
            start_ticks: 250.0,
            virtual_bytes: 8192.0,
            resident_pages: 42.0,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(boot_seconds("cpu 1\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }
}
