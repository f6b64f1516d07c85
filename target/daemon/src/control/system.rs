//! The daemon as a whole, and its one driver.

use super::backend::Backend;
use super::error::{Refusal, TgtError};
use super::{Control, DRIVER, Portal};
use crate::mgmt::{Op, Request, Response};

impl Control {
    pub(super) fn system_request(
        &mut self,
        op: Op,
        request: &Request,
        backend: &mut dyn Backend,
    ) -> Response {
        match op {
            Op::Show => Ok(self.show_system()),
            Op::Stats => Ok(self.stat_system(backend)),
            Op::Update => self.update_system(&request.payload, backend),
            Op::Delete if self.targets.is_empty() => Ok(String::new()),
            Op::Delete => {
                Err(Refusal::invalid(format!("{} targets exist; delete them first", self.targets.len())))
            }
            _ => Err(TgtError::InvalidRequest.into()),
        }
    }

    fn update_system(&mut self, payload: &str, backend: &mut dyn Backend) -> Response {
        if let Some(value) = payload.strip_prefix("debug=") {
            self.system.debug = match value {
                _ if value.starts_with("on") => true,
                _ if value.starts_with("off") => false,
                _ => return Err(Refusal::invalid("debug is on or off")),
            };
            backend.set_debug(self.system.debug);
            return Ok(String::new());
        }
        let (name, value) = payload.split_once('=').ok_or(TgtError::InvalidRequest)?;
        match name {
            "State" => {
                self.system.online = match value {
                    "ready" => true,
                    "offline" => false,
                    _ => return Err(Refusal::invalid("State is ready or offline")),
                }
            }
            "iSNS" if value == "Off" => {}
            "iSNS" if value == "On" => {
                let why = "there is no iSNS client; let initiators discover with SendTargets";
                return Err(Refusal::new(TgtError::Unsupported, why));
            }
            "iSNSServerIP" if !value.is_empty() => self.system.isns_server = value.to_owned(),
            "iSNSServerPort" => {
                let port = value.parse().map_err(|_| Refusal::invalid("iSNSServerPort is a number"))?;
                self.system.isns_port = port;
            }
            "iSNSAccessControl" if !value.is_empty() => self.system.isns_access_control = value == "On",
            _ => return Err(Refusal::invalid(format!("no system parameter {name}"))),
        }
        Ok(String::new())
    }

    pub(super) fn driver_request(
        &mut self,
        op: Op,
        request: &Request,
        backend: &mut dyn Backend,
    ) -> Response {
        match op {
            Op::Show => return Ok(self.show_drivers()),
            Op::Start => self.start_driver(backend)?,
            Op::Stop => self.stop_driver(backend)?,
            _ => {
                let why = format!("driver {DRIVER} cannot do op {}", request.op);
                return Err(Refusal::invalid(why));
            }
        }
        Ok(String::new())
    }

    fn start_driver(&mut self, backend: &mut dyn Backend) -> Result<(), Refusal> {
        if self.system.driver_ready {
            return Ok(());
        }
        for portal in std::mem::take(&mut self.stopped_portals).into_iter().rev() {
            let host = portal.address.ip().to_string();
            match backend.open_portal(Some(&host), portal.address.port(), portal.tag) {
                Ok(opened) => {
                    let tag = portal.tag;
                    opened.into_iter().for_each(|address| self.portals.insert(0, Portal { address, tag }));
                }
                Err(refusal) => {
                    self.close_portals(backend)?;
                    return Err(Refusal::new(TgtError::Unknown, refusal.detail));
                }
            }
        }
        self.system.driver_ready = true;
        Ok(())
    }

    fn stop_driver(&mut self, backend: &mut dyn Backend) -> Result<(), Refusal> {
        if !self.system.driver_ready {
            return Ok(());
        }
        if !self.targets.is_empty() {
            return Err(TgtError::DriverActive.into());
        }
        self.close_portals(backend)?;
        self.system.driver_ready = false;
        Ok(())
    }

    fn close_portals(&mut self, backend: &mut dyn Backend) -> Result<(), Refusal> {
        while let Some(portal) = self.portals.first().copied() {
            backend.close_portal(portal.address)?;
            self.portals.remove(0);
            self.stopped_portals.push(portal);
        }
        Ok(())
    }
}
