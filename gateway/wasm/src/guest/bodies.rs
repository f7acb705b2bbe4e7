//! What follows a head: bodies, whole or piece by piece, and trailers.

use super::generated::sluice::plugin::types;
use super::{Answer, Body, Piece, Trailers, answer};
use crate::fields::{self, Refused, all, every, field, first};
use crate::instance::{State, broken};
use http::HeaderMap;
use wasmtime::Result;
use wasmtime::component::Resource;

impl State {
    fn trailers(&mut self) -> Result<&mut HeaderMap> {
        self.exchange.trailers.as_mut().ok_or_else(|| broken("there are no trailers in this phase"))
    }

    fn replace_body(&mut self, content: Vec<u8>) -> Result<Answer> {
        if content.len() as u64 > self.body_buffer {
            return answer(Err(Refused::Body(self.body_buffer)));
        }
        self.replacement = Some(content.into());
        Ok(Ok(()))
    }
}

impl types::HostBody for State {
    fn size(&mut self, _: Resource<Body>) -> Result<u64> {
        Ok(self.body.len() as u64)
    }

    fn read(&mut self, _: Resource<Body>, offset: u64, length: u64) -> Result<Vec<u8>> {
        let size = self.body.len();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(size);
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(size);
        Ok(self.body.get(start..end).map(<[u8]>::to_vec).unwrap_or_default())
    }

    fn replace(&mut self, _: Resource<Body>, content: Vec<u8>) -> Result<Answer> {
        self.replace_body(content)
    }

    fn drop(&mut self, _: Resource<Body>) -> Result<()> {
        Ok(())
    }
}

impl types::HostPiece for State {
    fn size(&mut self, _: Resource<Piece>) -> Result<u64> {
        Ok(self.body.len() as u64)
    }

    fn read(&mut self, _: Resource<Piece>) -> Result<Vec<u8>> {
        Ok(self.body.to_vec())
    }

    fn is_first(&mut self, _: Resource<Piece>) -> Result<bool> {
        Ok(self.is_first)
    }

    fn is_last(&mut self, _: Resource<Piece>) -> Result<bool> {
        Ok(self.is_last)
    }

    fn replace(&mut self, _: Resource<Piece>, content: Vec<u8>) -> Result<Answer> {
        self.replace_body(content)
    }

    fn drop(&mut self, _: Resource<Piece>) -> Result<()> {
        Ok(())
    }
}

impl types::HostTrailers for State {
    fn get(&mut self, _: Resource<Trailers>, name: String) -> Result<Option<Vec<u8>>> {
        Ok(first(self.trailers()?, &name))
    }

    fn get_all(&mut self, _: Resource<Trailers>, name: String) -> Result<Vec<Vec<u8>>> {
        Ok(every(self.trailers()?, &name))
    }

    fn entries(&mut self, _: Resource<Trailers>) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(all(self.trailers()?))
    }

    fn set(&mut self, _: Resource<Trailers>, name: String, value: Vec<u8>) -> Result<Answer> {
        let trailers = self.trailers()?;
        answer(field(trailers, &name, value).map(|(name, value)| {
            trailers.insert(name, value);
        }))
    }

    fn append(&mut self, _: Resource<Trailers>, name: String, value: Vec<u8>) -> Result<Answer> {
        let trailers = self.trailers()?;
        answer(field(trailers, &name, value).map(|(name, value)| {
            trailers.append(name, value);
        }))
    }

    fn remove(&mut self, _: Resource<Trailers>, name: String) -> Result<Answer> {
        let trailers = self.trailers()?;
        answer(fields::name(&name).map(|name| {
            trailers.remove(name);
        }))
    }

    fn drop(&mut self, _: Resource<Trailers>) -> Result<()> {
        Ok(())
    }
}
