//! Applies the reports of actors: stores the instance record, publishes the state and emits events.
//!
//! A record that could not be stored is logged. The instance goes on, and the next report stores the record again.

use serde_json::{Value, json};

use crate::events::{self, Event};
use crate::supervisor::Incarnation;
use relevo_domain::{EventKind, InstanceNumber, InstanceState, Reason, ReasonCode};
use relevo_provider::LinkedAccount;

use super::actor::Report;
use super::directory::{QrCode, StateView};
use super::record::{DesiredState, InstanceRecord, has_new_credentials};
use super::supervisor::State;

impl State {
    /// Applies a report. Ignores reports of actors that were replaced or have ended.
    pub(super) async fn on_report(
        &mut self,
        number: InstanceNumber,
        incarnation: Incarnation,
        report: Report,
    ) {
        let entry = self.instances.get(&number);
        let Some(entry) = entry.filter(|entry| entry.child.is_running(incarnation)) else {
            return;
        };
        let record = entry.directory_entry.record.clone();
        match report {
            Report::Connected(account) => self.on_connected(number, account).await,
            Report::Connecting(reason, next_attempt_at) => {
                let view = StateView::new(InstanceState::Connecting, reason);
                self.set_state(number, StateView { next_attempt_at, ..view }).await;
            }
            Report::Held(failure, until) => {
                tracing::warn!(instance = %record.config.id, cause = %failure, %until,
                    "WhatsApp throttles the instance; nothing is sent until then");
                let reason = Reason::new(ReasonCode::Throttled, failure.to_string());
                let view = StateView::new(InstanceState::Connected, reason);
                self.set_state(number, StateView { next_attempt_at: Some(until), ..view }).await;
            }
            Report::Resumed => self.set_state(number, StateView::connected()).await,
            Report::QrCode(code) => self.on_qr_code(number, code).await,
            Report::Linked(account) => self.on_linked(number, record, account).await,
            Report::Stopped(desired) => self.on_stopped(number, record, desired).await,
        }
    }

    async fn on_connected(&mut self, number: InstanceNumber, account: Option<LinkedAccount>) {
        let now = self.arguments.clock.now();
        let change = move |record: &mut InstanceRecord| {
            record.last_connected_at = Some(now);
            record.account = account.or(record.account.take());
        };
        if let Err(error) = self.modify_record(number, change).await {
            tracing::warn!(%error, "connection time not stored");
        }
        self.publish_directory();
        self.set_state(number, StateView::connected()).await;
    }

    async fn on_qr_code(&mut self, number: InstanceNumber, code: QrCode) {
        let now = self.arguments.clock.now();
        let data = json!({
            "qr": code.text,
            "expires_at": code.expires_at.to_string(),
            "expires_in": code.expires_at.since(now).as_secs(),
        });
        let reason =
            Reason::new(ReasonCode::Pairing, "scan the code with the phone: WhatsApp, linked devices");
        let view = StateView::new(InstanceState::Connecting, reason);
        self.set_state(number, StateView { qr_code: Some(code), ..view }).await;
        self.emit(number, EventKind::Qr, data).await;
    }

    async fn on_linked(&mut self, number: InstanceNumber, record: InstanceRecord, account: LinkedAccount) {
        tracing::info!(instance = %record.config.id, jid = account.jid, "device linked to a phone");
        self.arguments.metrics.record_pairing("linked");
        let data = json!({
            "jid": account.jid, "lid": account.lid, "phone": account.phone(), "name": account.name,
        });
        let change = move |record: &mut InstanceRecord| record.account = Some(account);
        if let Err(error) = self.modify_record(number, change).await {
            tracing::warn!(%error, "linked account not stored; it is stored when the instance connects");
        }
        self.publish_directory();
        self.emit(number, EventKind::Paired, data).await;
        let reason = Reason::new(ReasonCode::Paired, "a phone linked this device; the connection follows");
        self.set_state(number, StateView::new(InstanceState::Connecting, reason)).await;
    }

    /// Stops the actor and stores the new desired state, which lasts until an operator acts. The queue is kept.
    async fn on_stopped(&mut self, number: InstanceNumber, record: InstanceRecord, desired: DesiredState) {
        let Some((state, reason)) = desired.idle_state() else { return };
        tracing::warn!(instance = %record.config.id, state = state.as_str(), reason = %reason.text, "instance stopped; queue kept");
        if matches!(desired, DesiredState::Unpaired(_)) {
            self.arguments.metrics.record_pairing(if reason.is(ReasonCode::PairingTimeout) {
                "timed_out"
            } else {
                "failed"
            });
        }
        self.stop(number, "WhatsApp rejected it, or pairing ended");
        // The device's keys are deleted, or belong to no account.
        let unlinked = matches!(desired, DesiredState::LoggedOut(_) | DesiredState::Unpaired(_));
        let now = self.arguments.clock.now();
        let runs_with = record.config;
        let change = move |record: &mut InstanceRecord| {
            // WhatsApp has not rejected credentials that replaced those of this actor meanwhile.
            if has_new_credentials(&runs_with, &record.config) {
                return;
            }
            (record.wanted, record.updated_at) = (desired, now);
            record.account = record.account.take().filter(|_| !unlinked);
        };
        if let Err(error) = self.modify_record(number, change).await {
            tracing::warn!(%error, "desired state not stored; after a restart the instance connects and is stopped again");
        }
        self.publish_directory();
        self.set_state(number, StateView::new(state, reason)).await;
    }

    /// Publishes the state of an instance. Emits a `status` event if the state changed in a way that the event reports.
    pub async fn set_state(&mut self, number: InstanceNumber, view: StateView) {
        let Some(entry) = self.instances.get(&number) else { return };
        let previous = entry.state.borrow().state;
        let StateView { state, reason, next_attempt_at, .. } = view.clone();
        let now = self.arguments.clock.now();
        entry.state.send_modify(|current| *current = view.after(current, now));
        if previous == state {
            return;
        }
        tracing::info!(instance = %entry.directory_entry.record.config.id, state = state.as_str(), reason = reason.code, "instance state changed");
        let status = match state {
            InstanceState::Connected => "connected",
            InstanceState::LoggedOut => "logged_out",
            InstanceState::Connecting if previous != InstanceState::Connected => return,
            InstanceState::Created => return,
            _ => "disconnected",
        };
        let mut data = json!({ "status": status, "state": state.as_str(), "reason": reason.code, "detail": reason.text });
        if let (Some(at), Some(fields)) = (next_attempt_at, data.as_object_mut()) {
            let delay = at.since(self.arguments.clock.now());
            fields.insert("retry_in".to_owned(), json!(delay.as_secs_f64()));
        }
        self.emit(number, EventKind::Status, data).await;
    }

    async fn emit(&self, number: InstanceNumber, kind: EventKind, data: Value) {
        let event = Event { kind, at: self.arguments.clock.now(), data };
        self.arguments.store.submit(move |tx| events::append(tx, number, &event), |_| {}).await;
    }
}
