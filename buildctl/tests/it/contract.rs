//! What every ledger and every scheduler promises, checked on each of them: the suites are generic, a backend brings a maker.
//!
//! ```text
//! ledger_contract!(directory, async { Some(Directory::new()) });       // impl contract::ledger::Books
//! scheduler_contract!(local, async { Local::if_buildah_is_here() });   // impl contract::scheduler::Stage
//! ```

#[path = "contract/ledger.rs"]
pub(crate) mod ledger;
#[path = "contract/scheduler.rs"]
pub(crate) mod scheduler;

use ledger::{Memory, ledger_contract};
use scheduler::{Fake, scheduler_contract};

ledger_contract!(memory, async { Some(Memory::default()) });
scheduler_contract!(fake, async { Some(Fake::default()) });
