//! Where a native unit test's request goes, one a thread as tests are.

use std::cell::RefCell;

#[derive(Default)]
struct Routing {
    allowed: bool,
    /// A phase runs in which it may be said.
    open: bool,
    backend: Option<String>,
    finds_route: bool,
}

thread_local! {
    static ROUTING: RefCell<Routing> = RefCell::default();
}

pub(crate) fn clear() {
    ROUTING.take();
}

pub(crate) fn allow() {
    ROUTING.with_borrow_mut(|routing| routing.allowed = true);
}

pub(crate) fn is_allowed() -> bool {
    ROUTING.with_borrow(|routing| routing.allowed)
}

/// What the plugin said in the engine.
pub(crate) fn told(backend: Option<String>, finds_route: bool) {
    ROUTING.with_borrow_mut(|routing| {
        if finds_route {
            routing.finds_route = true;
            routing.backend = None;
        }
        if backend.is_some() {
            routing.backend = backend;
        }
    });
}

pub(crate) fn destination() -> Option<String> {
    ROUTING.with_borrow(|routing| routing.backend.clone())
}

pub(crate) fn finds_route() -> bool {
    ROUTING.with_borrow(|routing| routing.finds_route)
}

/// Runs a phase of the request.
pub(crate) fn open<T>(phase: impl FnOnce() -> T) -> T {
    ROUTING.with_borrow_mut(|routing| routing.open = true);
    let outcome = phase();
    ROUTING.with_borrow_mut(|routing| routing.open = false);
    outcome
}

fn tell(tell: impl FnOnce(&mut Routing)) -> Result<(), String> {
    ROUTING.with_borrow_mut(|routing| match routing {
        Routing { allowed: false, .. } => Err("the Plugin's capabilities.routing does not allow it".to_owned()),
        Routing { open: false, .. } => Err("the request is on its way already".to_owned()),
        routing => {
            tell(routing);
            Ok(())
        }
    })
}

pub(crate) fn use_backend(name: &str) -> Result<(), String> {
    let known = super::outgoing::has(name);
    tell(|_| ())?;
    if !known {
        return Err(format!("the Plugin's capabilities.backends has no `{name}` that can be used"));
    }
    tell(|routing| routing.backend = Some(name.to_owned()))
}

pub(crate) fn find_route() -> Result<(), String> {
    tell(|routing| (routing.backend, routing.finds_route) = (None, true))
}
