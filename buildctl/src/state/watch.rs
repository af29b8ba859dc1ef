//! What happens in folders, as it happens. One inotify instance serves the whole process, because an account has few of them
//! (128 by default, inotify(7)) and every local job has a supervisor process; what nobody asked about twice is told once.
//!
//! Events may be lost (the kernel's queue overflows) or impossible (no instance, no watch, a filesystem without them); a
//! subscriber then hears [`Tidings::Anything`], at once or at regular intervals, and looks for itself.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::sync::Notify;

/// How often to look where the kernel does not tell.
const ROUND: Duration = Duration::from_millis(200);

/// What has happened since the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tidings {
    /// Something to these entries of the folder; the empty name is the folder itself.
    Names(BTreeSet<OsString>),
    /// Nobody knows; it may be anything, or nothing.
    Anything,
}

/// Hears of what happens in one folder, from its creation on.
#[derive(Debug)]
pub struct Subscription(Option<Told>);

#[derive(Debug)]
struct Told {
    watcher: &'static Watcher,
    watch: i32,
    mailbox: Arc<Mailbox>,
}

impl Subscription {
    /// To the folder at `path`.
    pub fn to(path: &Path) -> Self {
        Self(Watcher::of_process().and_then(|watcher| watcher.subscribe(path)))
    }

    /// Waits for something to happen. What happens between two calls is kept for the second.
    pub async fn next(&mut self) -> Tidings {
        if let Some(told) = &self.0 {
            return told.mailbox.next().await;
        }
        tokio::time::sleep(ROUND).await;
        Tidings::Anything
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let mut book = self.watcher.book();
        let Some(mailboxes) = book.get_mut(&self.watch) else {
            return;
        };
        mailboxes.retain(|mailbox| !Arc::ptr_eq(mailbox, &self.mailbox));
        if mailboxes.is_empty() {
            book.remove(&self.watch);
            // It fails if the folder is gone, and the watch with it.
            let _ = inotify::remove_watch(&self.watcher.inotify, self.watch);
        }
    }
}

/// What a subscriber has not read yet. It holds each name once, so it does not grow with the number of events.
#[derive(Debug, Default)]
struct Mailbox {
    unread: Mutex<Option<Tidings>>,
    arrived: Notify,
    /// The kernel tells no more: the folder is gone, and another one may come in its place.
    is_over: AtomicBool,
}

impl Mailbox {
    async fn next(&self) -> Tidings {
        loop {
            let arrived = self.arrived.notified();
            if let Some(tidings) = lock(&self.unread).take() {
                return tidings;
            }
            if self.is_over.load(Ordering::Acquire) {
                tokio::time::sleep(ROUND).await;
                return Tidings::Anything;
            }
            arrived.await;
        }
    }

    /// The last thing that the kernel has told.
    fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.put(None);
    }

    fn put(&self, name: Option<&OsStr>) {
        let mut unread = lock(&self.unread);
        match (&mut *unread, name) {
            (Some(Tidings::Names(names)), Some(name)) => {
                names.insert(name.to_owned());
            }
            (Some(Tidings::Anything), Some(_)) => {}
            (nothing @ None, Some(name)) => {
                *nothing = Some(Tidings::Names(BTreeSet::from([name.to_owned()])));
            }
            (any, None) => *any = Some(Tidings::Anything),
        }
        drop(unread);
        self.arrived.notify_one();
    }
}

type Book = HashMap<i32, Vec<Arc<Mailbox>>>;

/// The inotify instance of this process, with a thread that reads it.
#[derive(Debug)]
struct Watcher {
    inotify: OwnedFd,
    book: Mutex<Book>,
}

impl Watcher {
    fn of_process() -> Option<&'static Self> {
        static WATCHER: OnceLock<Option<Watcher>> = OnceLock::new();
        static READER: OnceLock<bool> = OnceLock::new();
        let watcher = WATCHER
            .get_or_init(|| match inotify::init(CreateFlags::CLOEXEC) {
                Ok(inotify) => Some(Self {
                    inotify,
                    book: Mutex::default(),
                }),
                Err(error) => {
                    tracing::warn!(%error, "no inotify instance is left, so changes are looked for every {ROUND:?}; raise fs.inotify.max_user_instances");
                    None
                }
            })
            .as_ref()?;
        let reads = READER.get_or_init(|| {
            let reader = thread::Builder::new()
                .name("watch".to_owned())
                .stack_size(128 << 10);
            reader.spawn(|| watcher.read()).is_ok()
        });
        reads.then_some(watcher)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    fn subscribe(&'static self, path: &Path) -> Option<Told> {
        // Always the same, because a second watch on a folder is the first one with a new mask.
        let flags = WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MODIFY
            | WatchFlags::MOVE
            | WatchFlags::ONLYDIR;
        // Held while the watch is made, so that its first event finds the mailbox.
        let mut book = self.book();
        let watch = inotify::add_watch(&self.inotify, path, flags)
            .inspect_err(|error| tracing::debug!(%error, path = %path.display(), "not watched"))
            .ok()?;
        let mailbox = Arc::<Mailbox>::default();
        book.entry(watch).or_default().push(Arc::clone(&mailbox));
        Some(Told {
            watcher: self,
            watch,
            mailbox,
        })
    }

    fn read(&self) {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => self.tell(&event),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the inotify instance cannot be read any more");
                    return self.book().values().flatten().for_each(|it| it.end());
                }
            }
        }
    }

    fn tell(&self, event: &inotify::Event<'_>) {
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            return self.everyone();
        }
        let mut book = self.book();
        let Some(mailboxes) = book.get(&event.wd()) else {
            return;
        };
        if event.events().contains(ReadFlags::IGNORED) {
            for mailbox in mailboxes {
                mailbox.end();
            }
            book.remove(&event.wd());
            return;
        }
        let name = event
            .file_name()
            .map_or(OsStr::new(""), |name| OsStr::from_bytes(name.to_bytes()));
        for mailbox in mailboxes {
            mailbox.put(Some(name));
        }
    }

    fn everyone(&self) {
        for mailbox in self.book().values().flatten() {
            mailbox.put(None);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is kept under a lock here is ever half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use runyard_common::testing::{patience, tempdir};
    use tokio::time::timeout;

    use super::*;

    async fn names(subscription: &mut Subscription) -> BTreeSet<OsString> {
        match timeout(patience(), subscription.next()).await.unwrap() {
            Tidings::Names(names) => names,
            Tidings::Anything => panic!("the kernel tells names"),
        }
    }

    #[tokio::test]
    async fn two_subscribers_of_a_folder_hear_the_same_and_one_may_leave() {
        let folder = tempdir();
        let mut first = Subscription::to(folder.path());
        let mut second = Subscription::to(folder.path());
        fs::write(folder.path().join("a"), "").unwrap();
        assert!(names(&mut first).await.contains(OsStr::new("a")));
        assert!(names(&mut second).await.contains(OsStr::new("a")));
        drop(first);
        fs::write(folder.path().join("b"), "").unwrap();
        while !names(&mut second).await.contains(OsStr::new("b")) {}
    }

    #[tokio::test]
    async fn an_overflow_is_told_to_everyone_as_anything() {
        let folder = tempdir();
        let mut subscription = Subscription::to(folder.path());
        // Others of this process hear it too, and only look once in vain.
        Watcher::of_process().unwrap().everyone();
        assert_eq!(subscription.next().await, Tidings::Anything);
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_looked_for_at_intervals() {
        let folder = tempdir();
        let mut subscription = Subscription::to(&folder.path().join("none"));
        assert_eq!(subscription.next().await, Tidings::Anything);
    }

    #[tokio::test]
    async fn a_folder_that_vanishes_is_looked_for_from_then_on() {
        let folder = tempdir();
        let path = folder.path().join("it");
        fs::create_dir(&path).unwrap();
        let mut subscription = Subscription::to(&path);
        fs::remove_dir(&path).unwrap();
        for _ in 0..3 {
            timeout(patience(), subscription.next()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_happens_between_two_questions_is_kept() {
        let mailbox = Mailbox::default();
        for name in ["a", "b", "a"] {
            mailbox.put(Some(OsStr::new(name)));
        }
        let expected = ["a", "b"].map(OsString::from).into();
        assert_eq!(mailbox.next().await, Tidings::Names(expected));
    }
}
