//! What the glue may be made to do wrong: how the simulator is tested.

/// One thing that the glue does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// A flush is acknowledged before it is done.
    AckFlushEarly,
    /// FUA is forgotten on the way to the disk.
    IgnoreFua,
    /// A write is acknowledged before it is done.
    AckWriteEarly,
    /// One write in eight never reaches the disk.
    LoseWrite,
    /// A failed operation is reported as done.
    SwallowErrors,
    /// Unit attentions are swallowed: the command is run again instead.
    DropUnitAttention,
    /// A command that conflicts with a reservation is run in the name of somebody else.
    SkipReservations,
    /// What reservations should survive a crash is not written.
    ForgetReservations,
    /// What is sent is now and then sent twice.
    CompleteTwice,
    /// A task counts as aborted while its operation still runs.
    AbortTooEarly,
    /// Data of a read are swapped with those of an earlier one.
    WrongBuffer,
    /// Buffers are not given back now and then.
    LeakBuffers,
    /// The wake-up of a task, or the end of its operation, is forgotten now and then.
    LoseWakeup,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 13] = [
        Mutation::AckFlushEarly,
        Mutation::IgnoreFua,
        Mutation::AckWriteEarly,
        Mutation::LoseWrite,
        Mutation::SwallowErrors,
        Mutation::DropUnitAttention,
        Mutation::SkipReservations,
        Mutation::ForgetReservations,
        Mutation::CompleteTwice,
        Mutation::AbortTooEarly,
        Mutation::WrongBuffer,
        Mutation::LeakBuffers,
        Mutation::LoseWakeup,
    ];
}
