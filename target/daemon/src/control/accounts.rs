//! CHAP accounts and who is bound to them.

use super::backend::{Account, Secret};
use super::error::{Refusal, TgtError};
use super::{Control, Tid};
use crate::mgmt::{Op, Request, Response, TID_ALL};

/// Accounts of one target, or of discovery, by user name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bindings {
    /// Initiators prove that they are one of these. In the order in which they were bound.
    pub incoming: Vec<String>,
    /// The target proves that it is this one.
    pub outgoing: Option<String>,
}

/// Accounts that a daemon keeps.
const ACCOUNTS_MAX: usize = 65536;

impl Bindings {
    fn bind(&mut self, user: &str, outgoing: bool) -> Result<(), Refusal> {
        match (outgoing, &self.outgoing) {
            (true, Some(other)) => {
                Err(Refusal::new(TgtError::OutgoingExists, format!("{other} is the outgoing account")))
            }
            (true, None) => {
                self.outgoing = Some(user.to_owned());
                Ok(())
            }
            (false, _) if self.incoming.iter().any(|u| u == user) => Err(TgtError::UserExists.into()),
            (false, _) => {
                self.incoming.push(user.to_owned());
                Ok(())
            }
        }
    }

    fn unbind(&mut self, user: &str, outgoing: bool) -> Result<(), Refusal> {
        if outgoing {
            if self.outgoing.as_deref() != Some(user) {
                return Err(TgtError::NoUser.into());
            }
            self.outgoing = None;
        } else {
            let at = self.incoming.iter().position(|u| u == user).ok_or(TgtError::NoUser)?;
            self.incoming.remove(at);
        }
        Ok(())
    }

    fn forget(&mut self, user: &str) {
        self.incoming.retain(|u| u != user);
        self.outgoing.take_if(|u| u == user);
    }
}

impl Control {
    pub(super) fn account_request(&mut self, op: Op, request: &Request) -> Response {
        let user = || {
            let at =
                request.payload.find("user=").ok_or_else(|| Refusal::invalid("no user= in the request"))?;
            Ok::<_, Refusal>(request.payload.get(at + 5..).unwrap_or_default())
        };
        match op {
            Op::Show => return Ok(self.show_accounts()),
            Op::New => {
                let (user, rest) = user()?.split_once(',').ok_or(TgtError::InvalidRequest)?;
                let password = rest
                    .strip_prefix("password=")
                    .ok_or_else(|| Refusal::invalid("no password= after the user"))?;
                self.new_account(user, password)?;
            }
            Op::Delete => self.delete_account(user()?)?,
            Op::Bind => self.bind_account(request.tid, user()?, request.outgoing, Bindings::bind)?,
            Op::Unbind => self.bind_account(request.tid, user()?, request.outgoing, Bindings::unbind)?,
            _ => return Err(TgtError::Unsupported.into()),
        }
        Ok(String::new())
    }

    fn new_account(&mut self, user: &str, password: &str) -> Result<(), Refusal> {
        if user.is_empty() || password.is_empty() || user.contains(char::is_whitespace) {
            return Err(Refusal::invalid(
                "user and password must not be empty, and a user has no blanks in it",
            ));
        }
        if self.accounts.iter().any(|a| a.user == user) {
            return Err(TgtError::UserExists.into());
        }
        if self.accounts.len() >= ACCOUNTS_MAX {
            return Err(TgtError::TooManyUsers.into());
        }
        let account = Account { user: user.to_owned(), password: Secret(password.to_owned()) };
        self.accounts.insert(0, account);
        Ok(())
    }

    fn delete_account(&mut self, user: &str) -> Result<(), Refusal> {
        let at = self.accounts.iter().position(|a| a.user == user).ok_or(TgtError::NoUser)?;
        self.accounts.remove(at);
        self.discovery.forget(user);
        self.targets.values_mut().for_each(|t| t.bindings.forget(user));
        Ok(())
    }

    fn bind_account(
        &mut self,
        tid: Tid,
        user: &str,
        outgoing: bool,
        change: fn(&mut Bindings, &str, bool) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let known = self.accounts.iter().any(|a| a.user == user);
        let bindings = if tid == TID_ALL { &mut self.discovery } else { &mut self.target_mut(tid)?.bindings };
        if !known {
            return Err(Refusal::new(TgtError::NoUser, format!("no account {user}")));
        }
        change(bindings, user, outgoing)
    }

    fn show_accounts(&self) -> String {
        let mut out = String::new();
        if !self.accounts.is_empty() {
            out.push_str("Account list:\n");
        }
        for account in &self.accounts {
            out.push_str("    ");
            out.push_str(&account.user);
            out.push('\n');
        }
        out
    }
}
