//! Result functions (RFC 7143 6.2.1, 6.2.2, 13): what follows from a proposal and this side's settings.

use super::{Key, Negotiator, Role, Rule, value};
use crate::params::{ConnectionParams, DigestKind, SessionParams, TaskReporting, join};

/// A value that both sides have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreed {
    Number(u32),
    Digest(DigestKind),
    Reporting(TaskReporting),
}

impl Agreed {
    pub(super) fn text(self, rule: Rule) -> String {
        match (self, rule) {
            (Agreed::Number(n), Rule::And | Rule::Or) => value::boolean_text(n != 0).to_owned(),
            (Agreed::Number(n), _) => n.to_string(),
            (Agreed::Digest(d), _) => d.to_string(),
            (Agreed::Reporting(r), _) => r.to_string(),
        }
    }
}

/// What comes of a proposal.
pub(super) enum Combined {
    Agreed(Agreed),
    /// `Reject`, and the value stays.
    Inadmissible,
    /// Not even the value that stays is one that this side takes.
    Impossible,
}

impl Negotiator {
    /// The answer to the proposal `text`.
    pub(super) fn combine(&self, key: Key, text: &str) -> Combined {
        if key.rule() == Rule::List {
            return self.pick(key, text);
        }
        let Some(ours) = self.limit(key) else { return Combined::Inadmissible };
        let result = match key.rule() {
            Rule::And => value::boolean(text).map(|theirs| u32::from(theirs && ours != 0)),
            Rule::Or => value::boolean(text).map(|theirs| u32::from(theirs || ours != 0)),
            Rule::Min(low, high) => in_range(text, low, high).map(|theirs| theirs.min(ours)),
            Rule::Max(low, high) => in_range(text, low, high).map(|theirs| theirs.max(ours)),
            _ => None,
        };
        result.map_or(Combined::Inadmissible, |n| Combined::Agreed(Agreed::Number(n)))
    }

    /// This side's number; FirstBurstLength within the MaxBurstLength that is agreed so far.
    fn limit(&self, key: Key) -> Option<u32> {
        let ours = self.settings.wanted(key)?;
        Some(if key == Key::FirstBurstLength { ours.min(self.session.max_burst_len) } else { ours })
    }

    /// The number that this side proposes. An initiator proposes both burst lengths at once, so that the one that is
    /// agreed so far does not bound the other.
    fn proposed(&self, key: Key) -> Option<u32> {
        if self.role == Role::Initiator { self.settings.wanted(key) } else { self.limit(key) }
    }

    /// RFC 7143 6.2.1: the first of the proposer's list that this side takes; elements that are unknown here are passed
    /// over.
    fn pick(&self, key: Key, text: &str) -> Combined {
        let Some(mut elements) = value::list(text) else { return Combined::Inadmissible };
        let found = elements.find_map(|element| self.listed(key, element));
        match found {
            Some(agreed) => Combined::Agreed(agreed),
            None if self.must_propose(key) => Combined::Impossible,
            None => Combined::Inadmissible,
        }
    }

    /// What the list element means, if this side takes it.
    fn listed(&self, key: Key, element: &str) -> Option<Agreed> {
        match key {
            Key::TaskReporting => {
                let reporting = element.parse().ok()?;
                self.settings.task_reporting.contains(&reporting).then_some(Agreed::Reporting(reporting))
            }
            _ => {
                let digest = element.parse().ok()?;
                self.digests(key).contains(&digest).then_some(Agreed::Digest(digest))
            }
        }
    }

    fn digests(&self, key: Key) -> &[DigestKind] {
        if key == Key::HeaderDigest { &self.settings.header_digest } else { &self.settings.data_digest }
    }

    /// What follows from this side's proposal and the peer's answer, if it can.
    pub(super) fn follows(&self, key: Key, text: &str) -> Option<Agreed> {
        if key.rule() == Rule::List {
            return self.listed(key, text);
        }
        let ours = self.proposed(key)?;
        let n = match key.rule() {
            Rule::And => u32::from(value::boolean(text).filter(|&theirs| !theirs || ours != 0)?),
            Rule::Or => u32::from(value::boolean(text).filter(|&theirs| theirs || ours == 0)?),
            Rule::Min(low, high) => in_range(text, low, high).filter(|&theirs| theirs <= ours)?,
            Rule::Max(low, high) => in_range(text, low, high).filter(|&theirs| theirs >= ours)?,
            _ => return None,
        };
        Some(Agreed::Number(n))
    }

    /// Puts what was agreed where it belongs.
    pub(super) fn agree(&mut self, key: Key, agreed: Agreed) {
        match agreed {
            Agreed::Number(n) => self.session.set(key, n),
            Agreed::Reporting(reporting) => self.session.task_reporting = reporting,
            Agreed::Digest(digest) if key == Key::HeaderDigest => self.connection.header_digest = digest,
            Agreed::Digest(digest) => self.connection.data_digest = digest,
        }
    }

    /// What this side proposes for `key`.
    pub(super) fn proposal(&self, key: Key) -> String {
        match key {
            Key::HeaderDigest | Key::DataDigest => join(self.digests(key)),
            Key::TaskReporting => join(&self.settings.task_reporting),
            _ => self.proposed(key).map_or_else(String::new, |n| Agreed::Number(n).text(key.rule())),
        }
    }

    /// Whether the value that holds now is one that this side's settings exclude.
    pub(super) fn must_propose(&self, key: Key) -> bool {
        match (key, key.rule()) {
            (Key::TaskReporting, _) => !self.settings.task_reporting.contains(&self.session.task_reporting),
            (Key::HeaderDigest, _) => !self.settings.header_digest.contains(&self.connection.header_digest),
            (Key::DataDigest, _) => !self.settings.data_digest.contains(&self.connection.data_digest),
            (_, rule) => {
                let (Some(ours), Some(now)) = (self.limit(key), self.session.get(key)) else { return false };
                match rule {
                    Rule::And | Rule::Min(..) => now > ours,
                    Rule::Or | Rule::Max(..) => now < ours,
                    _ => false,
                }
            }
        }
    }

    /// Whether this side wants something else than what holds without negotiation.
    pub(super) fn differs(&self, key: Key) -> bool {
        match key {
            Key::TaskReporting => self.settings.task_reporting != [SessionParams::default().task_reporting],
            Key::HeaderDigest | Key::DataDigest => {
                self.digests(key) != [ConnectionParams::default().header_digest]
            }
            _ => self.proposed(key) != SessionParams::default().get(key),
        }
    }
}

fn in_range(text: &str, low: u32, high: u32) -> Option<u32> {
    let n = u32::try_from(value::number(text)?).ok()?;
    (low..=high).contains(&n).then_some(n)
}
