//! Making an instance somebody's device, and no longer; and what only a client at work can do.

use std::time::Duration;

use relevo_domain::{Failure, InstanceId, InstanceState, PhoneNumber, ProviderMessageId, Recipient};
use relevo_provider::MarkReadRequest;

use super::directory::{InstanceView, QrCode, StateView};
use super::supervisor::Msg;
use super::{Error, Handle};

/// Whoever asks for a code waits so long for it, as documented.
const QR_CODE_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest wait for WhatsApp's answer to anything else.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest wait for the end of a link. It ends also when nobody waits.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(60);

/// What is typed in on the phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairingCode {
    /// Eight letters and digits.
    pub code: String,
    pub valid_for: Duration,
}

/// A received message that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMessage {
    pub message: ProviderMessageId,
    /// Where it was written, and by whom, where the caller knows.
    pub chat: Option<Recipient>,
    pub sender: Option<Recipient>,
}

impl Handle {
    /// Asks an instance to be connected, unless it is already, or waits for somebody to care about what paused it.
    pub async fn connect_if_idle(&self, id: &InstanceId) -> Result<InstanceView, Error> {
        let known = self.find(id)?;
        if known.record.wanted.may_connect() { self.connect(id.clone()).await } else { Ok(known.view()) }
    }

    /// What a phone can scan now. Begins pairing where nobody has, and waits for the first code.
    ///
    /// # Errors
    ///
    /// It is somebody's device already, it cannot be paired before somebody cares, WhatsApp gave no code in time, or its
    /// provider has no phones.
    pub async fn qr_code(&self, id: &InstanceId) -> Result<QrCode, Error> {
        let known = self.find(id)?;
        if !known.record.config.provider.capabilities().keeps_connection {
            return Err(Error::NoLink(known.record.config.provider));
        }
        if known.record.account.is_none() {
            self.connect_if_idle(id).await?;
        }
        let mut state = known.state.clone();
        let found = async {
            loop {
                let seen = state.borrow_and_update().clone();
                // Published before the state that follows from it.
                if let Some(account) = &self.find(id)?.record.account {
                    return Err(Error::AlreadyLinked(account.jid.clone()));
                }
                match seen {
                    StateView { qr_code: Some(code), .. } => return Ok(code),
                    StateView { state: InstanceState::Connecting | InstanceState::Connected, .. } => {}
                    StateView { state, reason, .. } => return Err(Error::NotConnected { state, reason }),
                }
                // The sender lives as long as the instance.
                state.changed().await.map_err(|_| Error::Unknown(id.clone()))?;
            }
        };
        tokio::time::timeout(QR_CODE_TIMEOUT, found).await.unwrap_or(Err(Error::QrCodeTimeout))
    }

    /// Asks WhatsApp to show a prompt on the phone of that number, in which the code in the answer is typed. Begins
    /// pairing where nobody has.
    ///
    /// # Errors
    ///
    /// Those of [`code`](Self::code), and what WhatsApp says.
    pub async fn request_pairing_code(
        &self,
        id: &InstanceId,
        phone: &PhoneNumber,
    ) -> Result<PairingCode, Error> {
        // Once there is a code to scan, the client is ready for this as well.
        self.qr_code(id).await?;
        let client = self.find(id)?.client();
        let device = client.linked().ok_or(Error::NoLink(client.kind()))?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, device.pair_by_code(phone)).await;
        let pair = answer.unwrap_or_else(|_| Err(timeout_failure())).map_err(Error::Failed)?;
        Ok(PairingCode { code: pair.code, valid_for: pair.valid_for })
    }

    /// Ends the link between an instance's device and the account, at WhatsApp as far as it can be reached, and waits for
    /// that. Its queue is kept.
    ///
    /// # Errors
    ///
    /// There is no such instance, or its provider has no phones.
    pub async fn logout(&self, id: &InstanceId) -> Result<InstanceView, Error> {
        self.slot.call(|reply| Msg::Logout(id.clone(), reply)).await??;
        let known = self.find(id)?;
        let mut state = known.state.clone();
        let ended = state.wait_for(|view| view.state == InstanceState::LoggedOut);
        let _ = tokio::time::timeout(LOGOUT_TIMEOUT, ended).await;
        self.get(id)
    }

    /// Tells the sender of a received message that it was read; `typing` also that an answer is being written.
    pub async fn mark_read(&self, id: &InstanceId, read: ReadMessage, typing: bool) -> Result<(), Error> {
        let known = self.find(id)?;
        let StateView { state, reason, .. } = known.state.borrow().clone();
        if state != InstanceState::Connected {
            return Err(Error::NotConnected { state, reason });
        }
        let (client, ReadMessage { message, chat, sender }) = (known.client(), read);
        let mark = MarkReadRequest { message, chat, sender };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.mark_read(&mark, typing)).await;
        answer.unwrap_or_else(|_| Err(timeout_failure())).map_err(Error::Failed)
    }
}

fn timeout_failure() -> Failure {
    Failure::transient("WhatsApp took too long to answer")
}
