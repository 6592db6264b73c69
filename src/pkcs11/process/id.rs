//! [`ProcessId`]: which process this is, for less than a system call.
//!
//! To ask the system (`getpid`) costs 100 ns, and each use of a key would ask several times. Linux can be told to hand a
//! page of memory to forked children empty (`MADV_WIPEONFORK`): a process that finds its number gone from there is new.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Tells a process from all its ancestors. Equal numbers mean nothing for other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessId(u64);

/// Where this process's number is; it is 0 in a new process. Null before the first question.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());

/// The page of a system that has none such: never written to.
static NO_PAGE: AtomicU64 = AtomicU64::new(0);

/// The last number that this process or an ancestor took.
static LAST: AtomicU64 = AtomicU64::new(0);

impl ProcessId {
    /// The process that asks. Takes no lock.
    pub(crate) fn this() -> Self {
        let page = page();
        if std::ptr::eq(page, &NO_PAGE) {
            return Self::by_system();
        }
        match page.load(Ordering::Relaxed) {
            0 => Self::new(page),
            number => Self(number),
        }
    }

    pub(crate) fn is_this(self) -> bool {
        self == Self::this()
    }

    /// One that is given out again to a descendant would be mistaken for its ancestor's; that takes a full round of process
    /// ids between two forks.
    fn by_system() -> Self {
        Self(std::process::id().into())
    }

    #[cold]
    fn new(page: &AtomicU64) -> Self {
        // A child has its parent's last number, and so takes none that an ancestor has.
        let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let taken = page.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed);
        // Of two threads that ask at once, one is first.
        Self(taken.map_or_else(|others| others, |_| next))
    }
}

fn page() -> &'static AtomicU64 {
    let page = PAGE.load(Ordering::Acquire);
    let page = if page.is_null() { first_page() } else { page };
    // SAFETY: not null, and never given back: `NO_PAGE` or a mapping of `wiped_page`.
    #[allow(unsafe_code)]
    unsafe {
        &*page
    }
}

/// Makes the page, or finds that another thread has.
#[cold]
fn first_page() -> *mut AtomicU64 {
    let made = wiped_page().unwrap_or_else(|| std::ptr::from_ref(&NO_PAGE).cast_mut());
    let first = PAGE.compare_exchange(
        std::ptr::null_mut(),
        made,
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    // A page that comes second stays mapped, unused.
    first.map_or_else(|others| others, |_| made)
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn wiped_page() -> Option<*mut AtomicU64> {
    // SAFETY: a new mapping at an address of the system's choice, at least a page long, zero, and aligned to a page. It is
    // unmapped only here, before anybody has its address.
    unsafe {
        let len = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).ok()?;
        let page = libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if page == libc::MAP_FAILED {
            return None;
        }
        // Refused by kernels before 4.14.
        if libc::madvise(page, len, libc::MADV_WIPEONFORK) != 0 {
            libc::munmap(page, len);
            return None;
        }
        Some(page.cast())
    }
}

#[cfg(not(target_os = "linux"))]
fn wiped_page() -> Option<*mut AtomicU64> {
    None
}

#[cfg(test)]
mod tests {
    use super::ProcessId;

    #[test]
    fn all_threads_of_a_process_are_it() {
        let this = ProcessId::this();
        let asked = std::thread::scope(|scope| {
            let all = [(); 8].map(|()| scope.spawn(ProcessId::this));
            all.map(|thread| thread.join().unwrap())
        });
        assert_eq!(asked, [this; 8]);
        assert!(this.is_this());
    }

    #[cfg(unix)]
    #[test]
    fn a_child_and_its_child_are_others() {
        let parent = ProcessId::this();
        let in_child = || {
            let child = ProcessId::this();
            let in_grandchild = || {
                let this = ProcessId::this();
                this != parent && this != child && this.is_this()
            };
            child != parent && child.is_this() && forked(in_grandchild)
        };
        assert!(forked(in_child));
        assert!(parent.is_this());
    }

    /// What a forked child says.
    #[cfg(unix)]
    #[allow(unsafe_code)]
    fn forked(says: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child takes no lock, allocates nothing and ends without running destructors; the status is a live
        // variable.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(i32::from(!says()));
            }
            assert!(child > 0);
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            status == 0
        }
    }
}
