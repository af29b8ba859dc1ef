//! A new configuration for a running hub.

use std::{collections::HashSet, sync::Arc, sync::PoisonError};

use super::{Actions, Hub, Settings};
use crate::api::PoolConfig;

impl Hub {
    /// Replaces settings, actions and pool limits. Running tasks keep the driver they were started with; waiting starts
    /// of actions that are gone are dropped; lowered limits stop nobody; raised ones admit at once.
    pub fn reconfigure(&self, settings: Settings, global_pool: PoolConfig, actions: Actions) {
        let pools = actions
            .iter()
            .map(|(name, action)| (name.clone(), action.task_pool.clone()))
            .collect();
        let mut state = self.lock();
        *self
            .0
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        *self
            .0
            .actions
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(actions);
        for orphan in state.pool.reconfigure(global_pool, pools) {
            self.dequeued(
                &mut state,
                &orphan.task_id,
                "pool: action removed from the configuration",
            );
        }
        drop(state);
        self.0.swept.notify_one();
        tokio::spawn(self.clone().admit_waiting());
    }

    /// Names of actions that tasks still use although the configuration no longer has them.
    pub fn orphaned_actions(&self) -> Vec<String> {
        let actions = self.actions();
        let state = self.lock();
        let used: HashSet<&str> = state
            .tasks
            .values()
            .filter(|task| !task.is_finished())
            .map(|task| &*task.action)
            .collect();
        let mut gone: Vec<String> = used
            .into_iter()
            .filter(|name| !actions.contains_key(*name))
            .map(str::to_owned)
            .collect();
        gone.sort_unstable();
        gone
    }
}
