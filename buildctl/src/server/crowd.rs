//! Connections that outlive their requests: how many of them there are, that there are not too many, and when the last one
//! is gone.

use tokio::sync::watch;

/// Counts. Clones are the same crowd.
#[derive(Clone, Debug, Default)]
pub struct Crowd(watch::Sender<usize>);

/// One in the crowd, as long as it lives.
#[derive(Debug)]
pub struct Member(watch::Sender<usize>);

impl Crowd {
    /// How many there may be at once.
    pub const MOST: usize = 1024;

    /// One more, if there is room.
    pub fn enter(&self) -> Option<Member> {
        let entered = self.0.send_if_modified(|count| {
            let room = *count < Self::MOST;
            *count += usize::from(room);
            room
        });
        entered.then(|| Member(self.0.clone()))
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        *self.0.borrow()
    }

    /// Returns when nobody is left.
    pub async fn empty(&self) {
        // The sender is in `self`, so that it cannot be gone.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_room_for_so_many_and_the_last_one_leaves_it_empty() {
        let crowd = Crowd::default();
        let mut members: Vec<Member> = (0..Crowd::MOST).filter_map(|_| crowd.enter()).collect();
        assert_eq!((members.len(), crowd.size()), (Crowd::MOST, Crowd::MOST));
        assert!(crowd.enter().is_none());
        members.pop();
        assert!(crowd.enter().is_some());
        drop(members);
        crowd.empty().await;
        assert_eq!(crowd.size(), 0);
    }
}
