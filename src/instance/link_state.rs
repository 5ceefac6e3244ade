//! Link events of the client and what they mean for the instance: the mapping to reports and desired states.

use std::time::Duration;

use ractor::ActorProcessingErr;

use relevo_domain::{Reason, ReasonCode, Timestamp};
use relevo_provider::{LinkEnd, LinkEvent};

use super::actor::{Report, State};
use super::directory::QrCode;
use super::planner::Link;
use super::record::DesiredState;

impl State {
    /// Applies a link event of the client.
    pub fn on_link_event(&mut self, event: LinkEvent) {
        if self.planner.link() == Link::Stopped {
            return;
        }
        if let LinkEvent::Connected(account) = event {
            return self.on_connected(Some(account));
        }
        if self.planner.link() == Link::Ready {
            self.arguments.metrics.record_client_loss("connection");
        }
        self.stop_probing();
        let report = report_for(event, self.arguments.clock.now());
        match &report {
            Report::Stopped(_) => self.planner.on_stopped(self.now()),
            _ => self.planner.on_disconnected(self.now()),
        }
        (self.arguments.report)(report);
    }

    /// The connection task has ended.
    ///
    /// # Errors
    ///
    /// The client ended without reporting why. The error ends the actor, which the supervisor restarts.
    pub fn on_connection_lost(&self) -> Result<(), ActorProcessingErr> {
        match self.planner.link() {
            Link::Stopped => Ok(()),
            _ => Err("the client of the linked device ended without reporting why".into()),
        }
    }
}

/// The report that follows from a link event.
fn report_for(event: LinkEvent, now: Timestamp) -> Report {
    match event {
        LinkEvent::Connecting => {
            Report::Connecting(Reason::new(ReasonCode::Connecting, "connecting to WhatsApp"), None)
        }
        LinkEvent::QrCode { qr, valid_for } => {
            Report::QrCode(QrCode { text: qr, expires_at: now + valid_for })
        }
        LinkEvent::QrCodesExhausted => Report::Stopped(DesiredState::Unpaired(Reason::new(
            ReasonCode::PairingTimeout,
            "no phone scanned a code in time; ask for a new one: GET /instances/{id}/qr",
        ))),
        LinkEvent::Linked(account) => Report::Linked(account),
        LinkEvent::Connected(account) => Report::Connected(Some(account)),
        LinkEvent::Disconnected { reason, retry_in } => {
            let text = format!("{reason}; the next attempt is in {}", format_seconds(retry_in));
            Report::Connecting(Reason::new(ReasonCode::Unreachable, text), Some(now + retry_in))
        }
        LinkEvent::Ended(end) => Report::Stopped(desired_state_after(end)),
    }
}

/// The desired state after WhatsApp ended the link. The instance does not connect again until an operator acts.
fn desired_state_after(end: LinkEnd) -> DesiredState {
    match end {
        LinkEnd::LoggedOut => DesiredState::LoggedOut(Reason::new(
            ReasonCode::LoggedOut,
            "the phone or WhatsApp removed this device; link it again: GET /instances/{id}/qr",
        )),
        LinkEnd::Replaced => DesiredState::Paused(Reason::new(
            ReasonCode::Replaced,
            "another client connected with the keys of this device; stop that one, then resume the instance",
        )),
        LinkEnd::Banned { until, reason } => {
            let text = match until {
                Some(until) => {
                    format!("WhatsApp banned the account until {until}: {reason}; resume it after that")
                }
                None => format!(
                    "WhatsApp banned the account: {reason}; settle it on the phone, then resume the instance"
                ),
            };
            DesiredState::Paused(Reason::new(ReasonCode::Banned, text))
        }
        LinkEnd::ClientOutdated => DesiredState::Paused(Reason::new(
            ReasonCode::ClientOutdated,
            "WhatsApp no longer supports this version of WhatsApp Web; set linked_device.version to a newer one, \
             or update relevo, then resume the instance",
        )),
        LinkEnd::PairingFailed(cause) => {
            let text = format!("the phone could not be linked: {cause}; try again: GET /instances/{{id}}/qr");
            DesiredState::Unpaired(Reason::new(ReasonCode::PairingFailed, text))
        }
    }
}

/// A delay as text, in seconds.
fn format_seconds(delay: Duration) -> String {
    format!("{:.1} s", delay.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::InstanceState;

    fn idle_state_after(event: LinkEvent) -> (InstanceState, Reason) {
        match report_for(event, Timestamp(0)) {
            Report::Stopped(desired) => desired.idle_state().unwrap(),
            report => panic!("{report:?}"),
        }
    }

    #[test]
    fn each_link_end_maps_to_its_own_state() {
        use InstanceState::{Disconnected, LoggedOut, Paused};
        let banned = |until| LinkEnd::Banned { until, reason: "spam".to_owned() };
        for (end, state, code) in [
            (LinkEnd::LoggedOut, LoggedOut, "logged_out"),
            (LinkEnd::Replaced, Paused, "replaced"),
            (banned(None), Paused, "banned"),
            (LinkEnd::ClientOutdated, Paused, "client_outdated"),
            (LinkEnd::PairingFailed("401".to_owned()), Disconnected, "pairing_failed"),
        ] {
            let (found, reason) = idle_state_after(LinkEvent::Ended(end));
            assert_eq!((found, reason.code.as_str()), (state, code));
        }
        let (state, reason) = idle_state_after(LinkEvent::QrCodesExhausted);
        assert_eq!((state, reason.code.as_str()), (Disconnected, "pairing_timeout"));
        let (_, reason) = idle_state_after(LinkEvent::Ended(banned(Some(Timestamp(1_763_800_000_000)))));
        assert!(reason.text.contains("until 2025-11-22T08:26:40.000Z: spam"), "{}", reason.text);
    }

    #[test]
    fn lost_connection_reports_the_next_attempt() {
        let lost =
            LinkEvent::Disconnected { reason: "reset".to_owned(), retry_in: Duration::from_millis(2500) };
        let Report::Connecting(reason, next) = report_for(lost, Timestamp(1_000)) else { panic!() };
        assert_eq!((reason.code.as_str(), next), ("unreachable", Some(Timestamp(3_500))));
        assert_eq!(reason.text, "reset; the next attempt is in 2.5 s");
    }

    #[test]
    fn qr_code_expires_after_its_lifetime() {
        let code = LinkEvent::QrCode { qr: "2@x".to_owned(), valid_for: Duration::from_secs(20) };
        let Report::QrCode(code) = report_for(code, Timestamp(1_000)) else { panic!() };
        assert_eq!(code, QrCode { text: "2@x".to_owned(), expires_at: Timestamp(21_000) });
    }
}
