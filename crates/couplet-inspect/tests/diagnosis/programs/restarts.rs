//! Imports a file in the background. The fault: the file is not there, and the service fails at each
//! start.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use couplet::services::{Child, Supervisor, TaskService};
use couplet::{Reactor, Result};

use super::Version;

async fn import(reactor: Reactor, version: Version) -> Result<()> {
    loop {
        let file = PathBuf::from("/nonexistent/orders.csv");
        match reactor.defer_to_thread(move || Ok(std::fs::read(file)?)).await {
            Ok(_orders) => {}
            Err(failure) if version == Version::Mended && is_missing(&failure) => {}
            Err(failure) => return Err(failure),
        }
        reactor.sleep(Duration::from_secs(60)).await?;
    }
}

fn is_missing(failure: &couplet::Failure) -> bool {
    let error = failure.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

pub(crate) fn start(reactor: &Reactor, version: Version) {
    let supervisor = Supervisor::new("shop").intensity(100, Duration::from_secs(60));
    let import = TaskService::new("import", move |reactor| import(reactor, version));
    supervisor.add(Child::new(import)).detach();
    supervisor.run(reactor).detach();
}
