//! The machine's public face: every call of the engine.

use std::collections::VecDeque;

use base::Mono;

use crate::api::*;

/// All connections and sessions of one thread.
pub struct Machine {
    config: MachineConfig,
    actions: VecDeque<Action>,
}

impl Machine {
    /// A machine without connections.
    pub fn new(config: MachineConfig) -> Self {
        Machine { config, actions: VecDeque::new() }
    }

    /// Takes a new connection.
    pub fn accept(&mut self, _cx: &mut Cx<'_>, _peer: PeerInfo) -> Result<ConnId, Refused> {
        Err(Refused::TooManyConnections(self.config.connections_max))
    }

    /// Takes a connection that another thread's machine gave away.
    pub fn adopt(&mut self, _cx: &mut Cx<'_>, _peer: PeerInfo, _from: Transfer) -> Result<ConnId, Refused> {
        Err(Refused::TooManyConnections(self.config.connections_max))
    }

    /// Gives a connection away, after [`Action::Handover`]; its id is dead.
    pub fn extract(&mut self, _conn: ConnId) -> Option<Transfer> {
        None
    }

    /// Where the next bytes go. None while a receive is out, while the connection must not be read
    /// ([`Action::Resume`] follows), or where it is over.
    pub fn take_rx(&mut self, _cx: &mut Cx<'_>, _conn: ConnId) -> Option<RxBatch> {
        None
    }

    /// Takes back what [`Machine::take_rx`] gave, with `n` bytes in it; 0 is the end of the stream.
    pub fn rx_done(&mut self, _cx: &mut Cx<'_>, _conn: ConnId, _batch: RxBatch, _n: usize) {}

    /// The socket failed; [`Action::Close`] follows.
    pub fn conn_failed(&mut self, _cx: &mut Cx<'_>, _conn: ConnId) {}

    /// Replies that are ready, up to about `max_segments` pieces and `max_bytes`. None while a send is out or nothing
    /// is ready.
    pub fn take_tx(
        &mut self,
        _cx: &mut Cx<'_>,
        _conn: ConnId,
        _max_segments: usize,
        _max_bytes: usize,
    ) -> Option<TxBatch> {
        None
    }

    /// Takes back what [`Machine::take_tx`] gave, with its first `n` bytes sent. The rest is what is given first next
    /// time.
    pub fn tx_done(&mut self, _cx: &mut Cx<'_>, _conn: ConnId, _batch: TxBatch, _n: usize) {}

    /// A command ended.
    pub fn task_done(&mut self, _cx: &mut Cx<'_>, _task: TaskId, _reply: scsi::Reply) {}

    /// Nothing of an aborted command runs any more.
    pub fn task_aborted(&mut self, _cx: &mut Cx<'_>, _task: TaskId) {}

    /// A task management function ended.
    pub fn tmf_done(&mut self, _cx: &mut Cx<'_>, _tmf: TmfId, _response: TmfResponse) {}

    /// Aborts the tasks of a session on `lun` (all units without), but `except`, for another nexus' task management
    /// function or reservation command. [`Action::TasksAborted`] follows when they are gone, also where there were
    /// none. Returns how many there are.
    pub fn abort_tasks(
        &mut self,
        _cx: &mut Cx<'_>,
        _session: SessionId,
        _lun: Option<u64>,
        _except: Option<TaskId>,
        token: u64,
    ) -> usize {
        self.actions.push_back(Action::TasksAborted { token });
        0
    }

    /// Does what is due.
    pub fn tick(&mut self, _cx: &mut Cx<'_>) {}

    /// When [`Machine::tick`] is to be called at the latest.
    pub fn next_deadline(&self) -> Mono {
        Mono::NEVER
    }

    /// What the engine does next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Closes a session.
    pub fn close_session(&mut self, _cx: &mut Cx<'_>, _session: SessionId, _how: CloseHow) {}

    /// Drops a connection.
    pub fn drop_connection(&mut self, _cx: &mut Cx<'_>, _conn: ConnId) {}

    /// A normal session in its full feature phase, or on its way down.
    pub fn session(&self, _id: SessionId) -> Option<&SessionInfo> {
        None
    }

    /// All normal sessions.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionInfo> {
        std::iter::empty()
    }

    /// Sends an asynchronous message on a session.
    pub fn send_async(&mut self, _cx: &mut Cx<'_>, _session: SessionId, _event: AsyncEvent) {}
}
