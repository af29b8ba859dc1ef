//! What a daemon holds of its own program. Nothing about allocators lives here.
//!
//! Starting up runs through much code that an idle daemon never needs again: parsing flags and files, compiling
//! expressions, registering metrics. The kernel maps those pages in 64 KiB windows and counts them as resident for as long
//! as nobody else wants the memory. [`release_startup_pages`] unmaps them; what is needed again comes back from the page
//! cache, one minor fault a window.

use std::{fs, io, ops::Range};

/// Unmaps the clean, file-backed pages that this process has touched so far, and returns the bytes of address space that
/// they may have filled.
///
/// To be called once, when a daemon is ready. Mappings that can be written, or that hold a single page of the process' own,
/// are left alone, so nothing can be lost. On systems without `/proc/self/smaps` this is an error and changes nothing.
pub fn release_startup_pages() -> io::Result<usize> {
    let mut released = 0;
    for range in clean(&fs::read_to_string("/proc/self/smaps")?) {
        released += range.len();
        // SAFETY: the range is one whole private mapping of a file, not writable and without a page that differs from the
        // file (`Anonymous: 0`), so each page is read from the file again when it is next touched, with the same content.
        unsafe {
            rustix::mm::madvise(
                std::ptr::with_exposed_provenance_mut(range.start),
                range.len(),
                rustix::mm::Advice::LinuxDontNeed,
            )?;
        }
    }
    Ok(released)
}

/// The mappings in a listing as of `/proc/<pid>/smaps` that hold nothing but what their file holds.
fn clean(listing: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in listing.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Anonymous:", "0", "kB"] => found.extend(candidate.take()),
            [range, permissions, _offset, _device, _inode, ref path @ ..] => {
                let is_clean = !permissions.contains('w') && permissions.ends_with('p');
                let is_file = path.first().is_some_and(|path| path.starts_with('/'));
                candidate = addresses(range).filter(|_| is_clean && is_file);
            }
            _ => {}
        }
    }
    found
}

/// Reads `<start>-<end>` in hexadecimal digits.
fn addresses(range: &str) -> Option<Range<usize>> {
    let (start, end) = range.split_once('-')?;
    let number = |digits| usize::from_str_radix(digits, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
1000-3000 r--p 00000000 fe:00 77 /usr/bin/tool
Rss:                   8 kB
Anonymous:             0 kB
3000-5000 r-xp 00002000 fe:00 77 /usr/bin/tool
Anonymous:             0 kB
5000-6000 r--p 00004000 fe:00 77 /usr/bin/tool
Anonymous:             4 kB
6000-7000 rw-p 00005000 fe:00 77 /usr/bin/tool
Anonymous:             0 kB
7000-8000 r--s 00000000 fe:00 78 /shared
Anonymous:             0 kB
8000-9000 r--p 00000000 00:00 0 [vvar]
Anonymous:             0 kB
9000-a000 r--p 00000000 00:00 0
Anonymous:             0 kB
";

    #[test]
    fn only_private_read_only_mappings_without_pages_of_their_own_are_released() {
        assert_eq!(clean(LISTING), [0x1000..0x3000, 0x3000..0x5000]);
    }

    #[test]
    fn a_released_program_goes_on_and_holds_less() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssFile:"));
            let words = line.unwrap().split_whitespace().nth(1).unwrap();
            words.parse::<u64>().unwrap()
        };
        let before = resident();
        assert!(release_startup_pages().unwrap() > 0);
        let after = resident();
        assert!(after < before, "{before} kB became {after} kB");
    }
}
