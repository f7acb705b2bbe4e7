//! From a plugin's type to the module's exports.

/// Exports a plugin, with the phases it takes part in: `request`, `request_body`,
/// `request_body_stream`, `response`, `response_body`, `response_body_stream`, `response_trailers`, `log`; and `self_test`.
///
/// ```ignore
/// sluice_plugin::export!(KeyAuth: request);
/// ```
///
/// Also adds a test that `schema.json`, beside the plugin's Cargo.toml, is the schema of its configuration; the module
/// carries that file.
#[macro_export]
macro_rules! export {
    ($plugin:ty: $($phase:ident),+ $(,)?) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Guest;

            static PLUGIN: ::std::sync::OnceLock<$plugin> = ::std::sync::OnceLock::new();

            impl $crate::backend::configuration::Guest for Guest {
                fn configure(config: String) -> Result<(), String> {
                    $crate::export::configure(&PLUGIN, &config)
                }
            }
            $crate::backend::export_configuration!(Guest with_types_in ::sluice_plugin::backend::with_configuration);

            $($crate::export!(@$phase Guest, $plugin);)+

            #[used]
            #[unsafe(link_section = "sluice:config-schema")]
            static SCHEMA: [u8; include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json")).len()] =
                *include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json"));
        };

        #[cfg(all(test, not(target_arch = "wasm32")))]
        #[test]
        fn schema_json_is_the_schema_of_the_configuration() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json");
            if let Err(message) = $crate::schema::check::<<$plugin as $crate::Plugin>::Config>(path) {
                panic!("{message}");
            }
        }
    };
    (@self_test $guest:ident, $plugin:ty) => {
        impl $crate::backend::self_test::Guest for $guest {
            fn run() -> Result<(), String> {
                <$plugin as $crate::SelfTest>::self_test($crate::export::configured(&PLUGIN))
            }
        }
        $crate::backend::export_self_test!(Guest with_types_in ::sluice_plugin::backend::with_self_test);
    };
    (@request $guest:ident, $plugin:ty) => {
        impl $crate::backend::request_headers::Guest for $guest {
            fn on_request(request: &$crate::backend::Request) -> Option<$crate::backend::Decision> {
                let plugin = $crate::export::configured(&PLUGIN);
                let decision = <$plugin as $crate::OnRequest>::on_request(plugin, &mut $crate::Request::new(request));
                $crate::backend::lower(decision)
            }
        }
        $crate::backend::export_request_headers!(Guest with_types_in ::sluice_plugin::backend::with_request_headers);
    };
    (@request_body $guest:ident, $plugin:ty) => {
        impl $crate::backend::request_body::Guest for $guest {
            fn on_request_body(
                request: &$crate::backend::Request,
                body: &$crate::backend::Body,
            ) -> Option<$crate::backend::Decision> {
                let plugin = $crate::export::configured(&PLUGIN);
                let (mut request, mut body) = ($crate::Request::new(request), $crate::Body::new(body));
                let decision = <$plugin as $crate::OnRequestBody>::on_request_body(plugin, &mut request, &mut body);
                $crate::backend::lower(decision)
            }
        }
        $crate::backend::export_request_body!(Guest with_types_in ::sluice_plugin::backend::with_request_body);
    };
    (@request_body_stream $guest:ident, $plugin:ty) => {
        impl $crate::backend::request_body_stream::Guest for $guest {
            fn on_request_piece(
                request: &$crate::backend::Request,
                piece: &$crate::backend::Piece,
            ) -> Option<$crate::backend::Decision> {
                static STATE: $crate::export::Kept<<$plugin as $crate::OnRequestPiece>::State> =
                    $crate::export::Kept::new();
                let plugin = $crate::export::configured(&PLUGIN);
                let (request, mut piece) = ($crate::Request::new(request), $crate::Piece::new(piece));
                let (first, last) = (piece.is_first(), piece.is_last());
                let decision = STATE.with(first, last, |state| {
                    <$plugin as $crate::OnRequestPiece>::on_request_piece(plugin, state, &request, &mut piece)
                });
                $crate::backend::lower(decision)
            }
        }
        $crate::backend::export_request_body_stream!(
            Guest with_types_in ::sluice_plugin::backend::with_request_body_stream
        );
    };
    (@response_body_stream $guest:ident, $plugin:ty) => {
        impl $crate::backend::response_body_stream::Guest for $guest {
            fn on_response_piece(
                request: &$crate::backend::Request,
                response: &$crate::backend::Response,
                piece: &$crate::backend::Piece,
            ) -> Option<$crate::backend::Decision> {
                static STATE: $crate::export::Kept<<$plugin as $crate::OnResponsePiece>::State> =
                    $crate::export::Kept::new();
                let plugin = $crate::export::configured(&PLUGIN);
                let (request, response) = ($crate::Request::new(request), $crate::Response::new(response));
                let mut piece = $crate::Piece::new(piece);
                let (first, last) = (piece.is_first(), piece.is_last());
                let decision = STATE.with(first, last, |state| {
                    <$plugin as $crate::OnResponsePiece>::on_response_piece(
                        plugin, state, &request, &response, &mut piece,
                    )
                });
                $crate::backend::lower(decision)
            }
        }
        $crate::backend::export_response_body_stream!(
            Guest with_types_in ::sluice_plugin::backend::with_response_body_stream
        );
    };
    (@response_trailers $guest:ident, $plugin:ty) => {
        impl $crate::backend::response_trailers::Guest for $guest {
            fn on_response_trailers(
                request: &$crate::backend::Request,
                response: &$crate::backend::Response,
                trailers: &$crate::backend::Trailers,
            ) {
                let plugin = $crate::export::configured(&PLUGIN);
                let (request, response) = ($crate::Request::new(request), $crate::Response::new(response));
                let mut trailers = $crate::Trailers::new(trailers);
                <$plugin as $crate::OnResponseTrailers>::on_response_trailers(
                    plugin, &request, &response, &mut trailers,
                );
            }
        }
        $crate::backend::export_response_trailers!(
            Guest with_types_in ::sluice_plugin::backend::with_response_trailers
        );
    };
    (@response $guest:ident, $plugin:ty) => {
        impl $crate::backend::response_headers::Guest for $guest {
            fn on_response(
                request: &$crate::backend::Request,
                response: &$crate::backend::Response,
            ) -> Option<$crate::backend::Decision> {
                let plugin = $crate::export::configured(&PLUGIN);
                let (request, mut response) = ($crate::Request::new(request), $crate::Response::new(response));
                let decision = <$plugin as $crate::OnResponse>::on_response(plugin, &request, &mut response);
                $crate::backend::lower(decision)
            }
        }
        $crate::backend::export_response_headers!(Guest with_types_in ::sluice_plugin::backend::with_response_headers);
    };
    (@response_body $guest:ident, $plugin:ty) => {
        impl $crate::backend::response_body::Guest for $guest {
            fn on_response_body(
                request: &$crate::backend::Request,
                response: &$crate::backend::Response,
                body: &$crate::backend::Body,
            ) -> Option<$crate::backend::Decision> {
                let plugin = $crate::export::configured(&PLUGIN);
                let request = $crate::Request::new(request);
                let (mut response, mut body) = ($crate::Response::new(response), $crate::Body::new(body));
                let decision =
                    <$plugin as $crate::OnResponseBody>::on_response_body(plugin, &request, &mut response, &mut body);
                $crate::backend::lower(decision)
            }
        }
        $crate::backend::export_response_body!(Guest with_types_in ::sluice_plugin::backend::with_response_body);
    };
    (@log $guest:ident, $plugin:ty) => {
        impl $crate::backend::log::Guest for $guest {
            fn on_log(
                request: &$crate::backend::Request,
                response: Option<&$crate::backend::Response>,
                summary: &$crate::backend::Summary,
            ) {
                let plugin = $crate::export::configured(&PLUGIN);
                let response = response.map($crate::Response::new);
                let (request, summary) = ($crate::Request::new(request), $crate::Summary::new(summary));
                <$plugin as $crate::OnLog>::on_log(plugin, &request, response.as_ref(), &summary);
            }
        }
        $crate::backend::export_log!(Guest with_types_in ::sluice_plugin::backend::with_log);
    };
}

/// What is remembered from one piece of a body to the next. The pieces of a body come to one instance, which sees no other
/// body meanwhile.
#[doc(hidden)]
pub struct Kept<S>(std::sync::Mutex<Option<S>>);

impl<S: Default> Kept<S> {
    #[allow(clippy::new_without_default, reason = "a static needs it to be const")]
    pub const fn new() -> Kept<S> {
        Kept(std::sync::Mutex::new(None))
    }

    /// Calls with what the piece before left; a first piece finds nothing, and a last one leaves nothing.
    pub fn with<T>(&self, first: bool, last: bool, call: impl FnOnce(&mut S) -> T) -> T {
        let mut kept = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if first {
            *kept = None;
        }
        let result = call(kept.get_or_insert_default());
        if last {
            *kept = None;
        }
        result
    }
}

/// Makes the plugin of its configuration.
#[doc(hidden)]
#[cfg(target_arch = "wasm32")]
pub fn configure<P: crate::Plugin>(plugin: &std::sync::OnceLock<P>, config: &str) -> Result<(), String> {
    // A trap says nothing; this says what and where.
    std::panic::set_hook(Box::new(|panic| crate::log::error(&panic.to_string())));
    let config = serde_json::from_str(config).map_err(|error| format!("the configuration does not fit: {error}"))?;
    plugin.set(P::configure(config)?).map_err(|_| "configure was called twice".to_owned())?;
    #[cfg(feature = "allocator")]
    crate::allocator::keep();
    Ok(())
}

/// The plugin, which the gateway has configured before it calls any phase.
#[doc(hidden)]
#[cfg(target_arch = "wasm32")]
pub fn configured<P>(plugin: &'static std::sync::OnceLock<P>) -> &'static P {
    match plugin.get() {
        Some(plugin) => plugin,
        None => panic!("a phase was called before configure"),
    }
}
