//! Health and metrics over HTTP: `/healthz` and `/readyz` for load balancers and orchestrators,
//! `/metrics` for Prometheus.
//!
//! Contract: 48a.

use couplet::Failure;
use couplet::http::{Body, HttpExt, local};
use couplet::services::{Health, Service, Supervisor};
use http::{Request, Response, StatusCode};

use crate::loops::Loops;
use crate::metrics::{Metrics, OwnMetrics, with_own};
use crate::places::Placed;

/// Serves the health of a program, and its metrics if there are any.
pub(crate) fn serve(
    loops: &Loops,
    endpoint: Placed,
    supervisor: &Supervisor,
    metrics: Option<(Metrics, OwnMetrics)>,
) -> Result<(), Failure> {
    let (asked, supervisor) = (loops.clone(), supervisor.clone());
    let reactor = loops.reactor();
    let what = if metrics.is_some() { "metrics and the health" } else { "the health" };
    let answers = local(reactor, async move |request: Request<Body>| {
        match (request.uri().path(), &metrics) {
            ("/healthz" | "/readyz", _) => health(request.uri().path(), &supervisor),
            ("/metrics", Some((metrics, own))) => match asked.snapshot().await {
                Ok(snapshot) => exposition(with_own(metrics.encode(&snapshot, &supervisor), own)),
                Err(_) => response(StatusCode::SERVICE_UNAVAILABLE, String::new()),
            },
            (_, Some(_)) => unknown("there are /healthz, /readyz and /metrics\n"),
            (_, None) => unknown("there are /healthz and /readyz\n"),
        }
    });
    let port = reactor
        .serve_http(endpoint, answers)
        .map_err(|failure| Failure::msg(format!("cannot serve {what}: {failure}")))?;
    port.accept_under_load(true);
    tracing::info!(host = %port.host(), "serving {what}");
    Ok(())
}

fn health(path: &str, supervisor: &Supervisor) -> Response<String> {
    let health = supervisor.health();
    let is_good = match path {
        "/readyz" => health.is_ready(),
        // A program that starts or stops is alive.
        _ => !matches!(health, Health::Failed(_)),
    };
    let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let lines = supervisor.children().iter().map(|child| format!("{child}\n")).collect::<String>();
    response(status, format!("{health}\n{lines}"))
}

fn unknown(words: &str) -> Response<String> {
    response(StatusCode::NOT_FOUND, words.to_owned())
}

/// The text of OpenMetrics 1.0.
fn exposition(text: String) -> Response<String> {
    let mut response = response(StatusCode::OK, text);
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(form));
    response
}

fn response(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(http::header::CONTENT_TYPE, plain);
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use couplet::services::{Child, FunctionService, Restart, TaskService};
    use couplet::testing::MemoryReactor;
    use couplet::{Deferred, Resolver};

    use super::*;

    const DOWN: Duration = Duration::from_secs(10);

    /// A supervisor whose children end when their resolvers fire.
    fn supervisor(restart: Restart) -> (MemoryReactor, Supervisor, Ends) {
        let memory = MemoryReactor::new();
        let supervisor = Supervisor::new("program").intensity(10, DOWN).back_off(DOWN, DOWN);
        let ends = Ends::default();
        for name in ["a", "b", "c"] {
            let ends = ends.clone();
            let task = TaskService::new(name, move |_reactor| {
                let (end, resolver) = Deferred::<()>::new();
                ends.borrow_mut().push((name, resolver));
                end
            });
            supervisor.add(Child::new(task).restart(restart)).detach();
        }
        (memory, supervisor, ends)
    }

    type Ends = Rc<RefCell<Vec<(&'static str, Resolver<()>)>>>;

    fn statuses(supervisor: &Supervisor) -> [u16; 2] {
        ["/healthz", "/readyz"].map(|path| health(path, supervisor).status().as_u16())
    }

    #[test]
    fn metrics_have_one_type() {
        let metrics = exposition(String::new());
        let types: Vec<_> = metrics.headers().get_all(http::header::CONTENT_TYPE).iter().collect();
        let wanted = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(types, [wanted]);
    }

    #[test]
    fn health_is_plain_text_that_no_cache_stores() {
        let (_memory, supervisor, _ends) = supervisor(Restart::Permanent);
        let health = health("/healthz", &supervisor);
        assert_eq!(health.headers()[http::header::CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(health.headers()[http::header::CACHE_CONTROL], "no-store");
    }

    #[test]
    fn a_program_is_never_ready_while_a_permanent_child_is_down() {
        for killed in ["a", "b", "c"] {
            let (mut memory, supervisor, ends) = supervisor(Restart::Permanent);
            assert_eq!(statuses(&supervisor), [200, 503], "it has not started");
            supervisor.run(&memory.reactor()).detach();
            memory.advance(Duration::ZERO);
            assert_eq!(statuses(&supervisor), [200, 200]);
            let place = ends.borrow().iter().position(|(name, _)| *name == killed);
            let (_, end) = ends.borrow_mut().remove(place.expect("it runs"));
            end.errback(Failure::msg("killed"));
            memory.advance(Duration::ZERO);
            assert_eq!(statuses(&supervisor), [503, 503], "{killed}");
            let answer = health("/readyz", &supervisor);
            assert!(
                answer.body().contains(&format!("failed: {killed}: killed")),
                "{}",
                answer.body()
            );
            memory.advance(DOWN);
            assert_eq!(statuses(&supervisor), [200, 200], "{killed} runs again");
        }
    }

    #[test]
    fn the_end_of_a_temporary_child_is_no_fault() {
        let (mut memory, supervisor, ends) = supervisor(Restart::Temporary);
        supervisor.run(&memory.reactor()).detach();
        memory.advance(Duration::ZERO);
        let (_, end) = ends.borrow_mut().remove(0);
        end.errback(Failure::msg("killed"));
        memory.advance(Duration::ZERO);
        assert_eq!(statuses(&supervisor), [200, 200]);
    }

    #[test]
    fn a_program_that_stops_is_alive_and_not_ready() {
        let mut memory = MemoryReactor::new();
        let supervisor = Supervisor::new("program").not_ready_for(DOWN);
        let all = FunctionService::new("all", |_| Deferred::succeed(()));
        supervisor.add(Child::new(all)).detach();
        supervisor.run(&memory.reactor()).detach();
        memory.advance(Duration::ZERO);
        supervisor.wind_down(&memory.reactor()).detach();
        assert_eq!(statuses(&supervisor), [200, 503]);
    }
}
