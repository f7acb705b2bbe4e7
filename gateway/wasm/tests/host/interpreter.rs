//! A component that makes the calls that a request brings it, below the canonical ABI: with whatever pointers, lengths,
//! handles and discriminants. It is written from the contract (`sdk/wit`), so that it calls each function that there is.
//!
//! A program comes as the request's property `program`, or as a configuration that is a string, in hexadecimal digits: a
//! head, and calls of a fixed length ([`Program::encoded`] has the form). Each phase runs it from its beginning.

use crate::setup::text;
use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use wit_component::StringEncoding;
use wit_parser::abi::{AbiVariant, WasmType};
use wit_parser::{
    Handle, LiftLowerAbi, ManglingAndAbi, Resolve, ResourceIntrinsic, Type, TypeDefKind, TypeId, WasmExport,
    WasmExportKind, WasmImport, WorldId, WorldItem,
};

/// Bytes of the guest's memory, and where what the host lowers into it is put.
pub(crate) const MEMORY: u64 = 64 * 65_536;
const GIVEN: u32 = 0x20_0000;
const GIVEN_END: u32 = 0x30_0000;
/// What the host lowers before the program is known: the program itself.
const PROGRAM: u32 = 0x30_0000;

/// Where results of functions are put, eight bytes aligned, and what a phase returns.
pub(crate) const RESULT: u64 = 192;
const PROPERTY: u32 = 160;
const RETURNED: u32 = 128;
/// The handles that the guest has, one a kind, and what was once one.
const REGISTERS: u32 = 32;
pub(crate) const STALE: u8 = 15;
/// Texts, and what lists point to, from here on.
pub(crate) const DATA: u32 = 1_024;

/// Core parameters of a function at most.
const MAX_SLOTS: usize = 12;
/// Of a call: function, phases; then its slots, each a way to say a value and eight bytes.
const CALL: usize = 2 + 9 * MAX_SLOTS;
const HEAD: usize = 9 + 4 + 9;

/// What one parameter of a function is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Param {
    Integer,
    Float,
    /// Of an option, or a boolean.
    Discriminant,
    /// Of a resource of this kind; an owned one is gone after the call.
    Handle {
        kind: u8,
        owned: bool,
    },
    /// Two slots, a pointer and a length.
    Text,
    Bytes,
    Pairs,
    Floats,
    /// Where the result is put.
    Result,
}

/// A function that the guest imports.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    module: String,
    /// `[method]request.set-path`
    pub(crate) name: String,
    pub(crate) params: Vec<Param>,
    core: Vec<WasmType>,
    gives: Gives,
}

/// Whether a function gives a handle: itself, or as the first or second case of a result.
#[derive(Clone, Copy, Debug)]
enum Gives {
    Nothing,
    /// A number that is no handle.
    Number(&'static str),
    Handle(u8),
    Either(Option<u8>, Option<u8>),
}

/// A value of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Literal(u64),
    /// The handle of this kind; where the guest has none the call is left out.
    Held(u8),
    /// The same, made with zero.
    Register(u8),
}

/// One call. `phases` has a bit for each phase in which it is made.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    pub(crate) function: u8,
    pub(crate) phases: u8,
    pub(crate) slots: Vec<Slot>,
}

/// What `cabi_realloc` does besides giving memory.
pub(crate) mod realloc {
    pub(crate) const GIVES_NULL: u8 = 1;
    pub(crate) const GIVES_THE_LAST_BYTE: u8 = 2;
    pub(crate) const GIVES_NO_MEMORY: u8 = 3;
    pub(crate) const TRAPS: u8 = 4;
    pub(crate) const GIVES_UNALIGNED: u8 = 5;
    pub(crate) const CALLS_THE_HOST: u8 = 6;
    pub(crate) const GROWS: u8 = 7;
    pub(crate) const GROWS_TOO_MUCH: u8 = 8;
    pub(crate) const LOOPS: u8 = 9;
}

/// What `cabi_post_…` does: nothing, trap, call the host.
pub(crate) const POST_RETURNS: u8 = 3;

/// What the guest does.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) realloc: u8,
    pub(crate) post_return: u8,
    /// Phases after which it keeps what it was lent, and phases that return what follows instead of none.
    pub(crate) keeps: u8,
    pub(crate) returns: u8,
    pub(crate) discriminant: u8,
    pub(crate) pointer: u32,
    pub(crate) decision: Slot,
    pub(crate) calls: Vec<Called>,
}

impl Program {
    /// One that does nothing.
    pub(crate) fn new(calls: Vec<Called>) -> Program {
        Program {
            realloc: 0,
            post_return: 0,
            keeps: 0,
            returns: 0,
            discriminant: 0,
            pointer: RETURNED,
            decision: Slot::Literal(0),
            calls,
        }
    }

    /// As the guest reads it.
    pub(crate) fn encoded(&self) -> String {
        let mut bytes = vec![self.realloc, self.post_return, self.keeps, self.returns, self.discriminant, 0, 0, 0, 0];
        bytes.extend_from_slice(&self.pointer.to_le_bytes());
        encode(&mut bytes, self.decision);
        for call in &self.calls {
            bytes.extend([call.function, call.phases]);
            call.slots.iter().for_each(|slot| encode(&mut bytes, *slot));
            (call.slots.len()..MAX_SLOTS).for_each(|_| encode(&mut bytes, Slot::Literal(0)));
        }
        hex::encode(bytes)
    }
}

fn encode(bytes: &mut Vec<u8>, slot: Slot) {
    let (way, value) = match slot {
        Slot::Literal(value) => (0, value),
        Slot::Held(kind) => (1, kind.into()),
        Slot::Register(kind) => (2, kind.into()),
    };
    bytes.push(way);
    bytes.extend_from_slice(&value.to_le_bytes());
}

const ABI: ManglingAndAbi = ManglingAndAbi::Legacy(LiftLowerAbi::Sync);

/// The contract, and all functions that it offers to a plugin.
pub(crate) struct Contract {
    resolve: Resolve,
    world: WorldId,
    resources: Vec<TypeId>,
    pub(crate) functions: Vec<Function>,
}

pub(crate) static CONTRACT: LazyLock<Contract> = LazyLock::new(Contract::read);

impl Contract {
    fn read() -> Contract {
        let mut resolve = Resolve::default();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/wit");
        let (package, _) = resolve.push_dir(&wit).expect("the contract");
        let world = resolve.select_world(&[package], Some("plugin")).expect("its world");
        let mut contract = Contract { resolve, world, resources: Vec::new(), functions: Vec::new() };
        contract.add_functions();
        assert!(contract.resources.len() < STALE as usize, "a register for each kind");
        contract
    }

    /// The kind of a resource, by its name.
    pub(crate) fn kind(&self, name: &str) -> u8 {
        let is = |id: &TypeId| self.resolve.types[*id].name.as_deref() == Some(name);
        self.resources.iter().position(is).expect("a resource") as u8
    }

    /// The place of a function among all, by the end of its name.
    pub(crate) fn function(&self, name: &str) -> u8 {
        self.functions.iter().position(|function| function.name.ends_with(name)).expect("a function") as u8
    }

    fn add_functions(&mut self) {
        let imports = self.resolve.worlds[self.world].imports.clone();
        let ids = |item: &WorldItem| match item {
            WorldItem::Interface { id, .. } => *id,
            other => panic!("a world of interfaces: {other:?}"),
        };
        for item in imports.values() {
            let types = self.resolve.interfaces[ids(item)].types.values();
            self.resources.extend(types.filter(|id| matches!(self.resolve.types[**id].kind, TypeDefKind::Resource)));
        }
        for (key, item) in &imports {
            let id = ids(item);
            let interface = self.resolve.interfaces[id].clone();
            for func in interface.functions.values() {
                let import = WasmImport::Func { interface: Some(key), func };
                let (module, name) = self.resolve.wasm_import_name(ABI, import);
                let signature = self.resolve.wasm_signature(AbiVariant::GuestImport, func);
                assert!(!signature.indirect_params, "{name}");
                let mut params = Vec::new();
                func.params.iter().for_each(|param| self.flatten(&param.ty, &mut params));
                let mut gives = func.result.map_or(Gives::Nothing, |ty| self.gives(&ty));
                if signature.retptr {
                    params.push(Param::Result);
                } else if let (Gives::Nothing, [core]) = (gives, &*signature.results) {
                    gives = Gives::Number(core_type(*core));
                }
                let core = signature.params;
                let slots: usize = params.iter().map(|param| param.slots()).sum();
                assert!(slots == core.len() && slots <= MAX_SLOTS, "{name}: {params:?}");
                self.functions.push(Function { module, name, params, core, gives });
            }
            for resource in interface.types.values() {
                let Some(kind) = self.resources.iter().position(|id| id == resource) else { continue };
                let (resource, intrinsic) = (*resource, ResourceIntrinsic::ImportedDrop);
                let import = WasmImport::ResourceIntrinsic { interface: Some(key), resource, intrinsic };
                let (module, name) = self.resolve.wasm_import_name(ABI, import);
                let params = vec![Param::Handle { kind: kind as u8, owned: true }];
                self.functions.push(Function {
                    module,
                    name,
                    params,
                    core: vec![WasmType::I32],
                    gives: Gives::Nothing,
                });
            }
        }
    }

    fn flatten(&self, ty: &Type, params: &mut Vec<Param>) {
        match ty {
            Type::Bool => params.push(Param::Discriminant),
            Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::S64 => params.push(Param::Integer),
            Type::F64 => params.push(Param::Float),
            Type::String => params.push(Param::Text),
            Type::Id(id) => match &self.resolve.types[*id].kind {
                TypeDefKind::Handle(handle) => params.push(self.handle(handle)),
                TypeDefKind::List(Type::U8) => params.push(Param::Bytes),
                TypeDefKind::List(Type::F64) => params.push(Param::Floats),
                TypeDefKind::List(_) => params.push(Param::Pairs),
                TypeDefKind::Option(inner) => {
                    params.push(Param::Discriminant);
                    self.flatten(inner, params);
                }
                other => panic!("the contract has {other:?} now, which this guest can't pass"),
            },
            other => panic!("the contract has {other:?} now, which this guest can't pass"),
        }
    }

    fn handle(&self, handle: &Handle) -> Param {
        let (mut id, owned) = match handle {
            Handle::Own(id) => (*id, true),
            Handle::Borrow(id) => (*id, false),
        };
        while let TypeDefKind::Type(Type::Id(of)) = &self.resolve.types[id].kind {
            id = *of;
        }
        Param::Handle { kind: self.resources.iter().position(|kind| *kind == id).expect("a resource") as u8, owned }
    }

    fn gives(&self, ty: &Type) -> Gives {
        let kind = |ty: &Type| match ty {
            Type::Id(id) => match &self.resolve.types[*id].kind {
                TypeDefKind::Handle(handle) => match self.handle(handle) {
                    Param::Handle { kind, .. } => Some(kind),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        };
        if let Some(kind) = kind(ty) {
            return Gives::Handle(kind);
        }
        let Type::Id(id) = ty else { return Gives::Nothing };
        match &self.resolve.types[*id].kind {
            TypeDefKind::Result(result) => {
                let [ok, err] = [&result.ok, &result.err].map(|ty| ty.as_ref().and_then(kind));
                if ok.is_some() || err.is_some() { Gives::Either(ok, err) } else { Gives::Nothing }
            }
            _ => Gives::Nothing,
        }
    }

    /// The guest. Without `outgoing` it is one whose calls never wait.
    pub(crate) fn guest(&self, outgoing: bool) -> Arc<[u8]> {
        let mut module = text(&self.module(outgoing)).to_vec();
        wit_component::embed_component_metadata(&mut module, &self.resolve, self.world, StringEncoding::UTF8)
            .expect("a module for the contract");
        module.into()
    }

    fn module(&self, outgoing: bool) -> String {
        let (mut imports, mut branches, mut labels) = (String::new(), String::new(), String::new());
        for (index, function) in self.functions.iter().enumerate() {
            let is_there = outgoing || !function.module.contains("/outgoing@");
            let types: Vec<_> = function.core.iter().map(|core| core_type(*core)).collect();
            let result = match function.gives {
                Gives::Handle(_) => "(result i32)".to_owned(),
                Gives::Number(core) => format!("(result {core})"),
                Gives::Nothing | Gives::Either(..) => String::new(),
            };
            let (module, name) = (&function.module, &function.name);
            if is_there {
                let types = types.join(" ");
                writeln!(imports, r#"(import "{module}" "{name}" (func $f{index} (param {types}) {result}))"#).unwrap();
            }
            let called = if is_there { function.call(index) } else { String::new() };
            writeln!(branches, ") {called} (br $next)").unwrap();
            write!(labels, "$l{index} ").unwrap();
        }
        let blocks: String = (0..self.functions.len()).rev().map(|index| format!("(block $l{index} ")).collect();
        let log = self.function("info");
        let property = self.function("request.property");
        let (data, exports) = (data(), self.exports());
        format!(
            r#"(module
            {imports}
            (memory (export "memory") {pages})
            (data $name "program")
            {data}
            (global $realloc (mut i32) (i32.const -1))
            (global $given (mut i32) (i32.const {GIVEN}))
            (global $program (mut i32) (i32.const 0))
            (global $end (mut i32) (i32.const 0))
            (func $register (param $kind i32) (result i32)
                (i32.add (i32.const {REGISTERS}) (i32.shl (i32.and (local.get $kind) (i32.const 15)) (i32.const 2))))
            (func $keep (param $kind i32) (param $handle i32)
                (i32.store (call $register (local.get $kind)) (local.get $handle)))
            (func $digit (param $at i32) (result i32)
                (local $c i32)
                (local.set $c (i32.load8_u (i32.add (global.get $program) (local.get $at))))
                (if (result i32) (i32.ge_u (local.get $c) (i32.const 97))
                    (then (i32.sub (local.get $c) (i32.const 87)))
                    (else (i32.sub (local.get $c) (i32.const 48)))))
            (func $byte (param $at i32) (result i32)
                (i32.or
                    (i32.shl (call $digit (i32.shl (local.get $at) (i32.const 1))) (i32.const 4))
                    (call $digit (i32.add (i32.shl (local.get $at) (i32.const 1)) (i32.const 1)))))
            (func $long (param $at i32) (result i64)
                (local $n i32) (local $value i64)
                (local.set $n (i32.const 8))
                (loop $more
                    (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                    (local.set $value (i64.or (i64.shl (local.get $value) (i64.const 8))
                        (i64.extend_i32_u (call $byte (i32.add (local.get $at) (local.get $n))))))
                    (br_if $more (local.get $n)))
                (local.get $value))
            (func $slot (param $at i32) (result i64)
                (local $value i64)
                (local.set $value (call $long (i32.add (local.get $at) (i32.const 1))))
                (if (result i64) (call $byte (local.get $at))
                    (then (i64.load32_u (call $register (i32.wrap_i64 (local.get $value)))))
                    (else (local.get $value))))
            ;; Whether a slot that must have a handle has one.
            (func $lacks (param $at i32) (result i32)
                (i32.and (i32.eq (call $byte (local.get $at)) (i32.const 1))
                    (i64.eqz (call $slot (local.get $at)))))
            ;; What an owned handle was is stale.
            (func $gone (param $at i32)
                (if (call $byte (local.get $at)) (then
                    (call $keep (i32.const {STALE}) (i32.wrap_i64 (call $slot (local.get $at))))
                    (call $keep (i32.wrap_i64 (call $long (i32.add (local.get $at) (i32.const 1)))) (i32.const 0)))))
            (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
                (local $at i32)
                (if (i32.eq (global.get $realloc) (i32.const -1)) (then (return (i32.const {PROGRAM}))))
                (if (i32.eq (global.get $realloc) (i32.const {null})) (then (return (i32.const 0))))
                (if (i32.eq (global.get $realloc) (i32.const {last_byte})) (then (return (i32.const {last}))))
                (if (i32.eq (global.get $realloc) (i32.const {no_memory})) (then (return (i32.const -4))))
                (if (i32.eq (global.get $realloc) (i32.const {traps})) (then (unreachable)))
                (if (i32.eq (global.get $realloc) (i32.const {calls_the_host}))
                    (then (call $f{log} (i32.const 512) (i32.const 7))))
                (if (i32.eq (global.get $realloc) (i32.const {grows}))
                    (then (return (i32.shl (memory.grow (i32.const 1)) (i32.const 16)))))
                (if (i32.eq (global.get $realloc) (i32.const {grows_too_much}))
                    (then (return (i32.shl (memory.grow (i32.const 1000)) (i32.const 16)))))
                (if (i32.eq (global.get $realloc) (i32.const {loops})) (then (loop $ever (br $ever))))
                (local.set $at (i32.and (i32.add (global.get $given) (i32.const 15)) (i32.const -8)))
                (if (i32.gt_u (local.get $size) (i32.const {room})) (then (return (i32.const {GIVEN}))))
                (if (i32.gt_u (i32.add (local.get $at) (local.get $size)) (i32.const {GIVEN_END}))
                    (then (local.set $at (i32.const {GIVEN}))))
                (global.set $given (i32.add (local.get $at) (local.get $size)))
                (i32.add (local.get $at) (i32.eq (global.get $realloc) (i32.const {unaligned}))))
            (func $after (local $what i32)
                (if (i32.eqz (global.get $end)) (then (return)))
                (local.set $what (call $byte (i32.const 1)))
                (if (i32.eq (local.get $what) (i32.const 1)) (then (unreachable)))
                (if (i32.eq (local.get $what) (i32.const 2)) (then (call $f{log} (i32.const 512) (i32.const 7)))))
            ;; The program of the request whose handle this is.
            (func $fetch (param $request i32)
                ;; The program before may have had the host write over it.
                (memory.init $name (i32.const 512) (i32.const 0) (i32.const 7))
                (global.set $realloc (i32.const -1))
                (global.set $end (i32.const 0))
                (call $f{property} (local.get $request) (i32.const 512) (i32.const 7) (i32.const {PROPERTY}))
                (if (i32.load8_u (i32.const {PROPERTY})) (then
                    (call $read (i32.load (i32.const {pointer})) (i32.load (i32.const {length}))))))
            (func $read (param $at i32) (param $length i32)
                (global.set $program (local.get $at))
                (global.set $end (i32.shr_u (local.get $length) (i32.const 1)))
                (global.set $realloc (call $byte (i32.const 0)))
                (global.set $given (i32.const {GIVEN})))
            (func $run (param $phase i32)
                (local $at i32)
                (local.set $at (i32.const {HEAD}))
                (loop $again
                    (if (i32.ge_u (local.get $at) (global.get $end)) (then (return)))
                    (block $next
                        (br_if $next (i32.eqz (i32.and (local.get $phase)
                            (call $byte (i32.add (local.get $at) (i32.const 1))))))
                        {blocks}
                        (br_table {labels} $next (call $byte (local.get $at)))
                        {branches}
                    )
                    (local.set $at (i32.add (local.get $at) (i32.const {CALL})))
                    (br $again)))
            ;; What a phase returns: none, or what the program says.
            (func $return (param $phase i32) (result i32)
                (i64.store (i32.const {RETURNED}) (i64.const 0))
                (if (i32.eqz (global.get $end)) (then (return (i32.const {RETURNED}))))
                (if (i32.eqz (i32.and (local.get $phase) (call $byte (i32.const 3))))
                    (then (return (i32.const {RETURNED}))))
                (i32.store8 (i32.const {RETURNED}) (call $byte (i32.const 4)))
                (if (call $lacks (i32.const 13)) (then (return (i32.const {PROPERTY_NONE}))))
                (i32.store offset=4 (i32.const {RETURNED}) (i32.wrap_i64 (call $slot (i32.const 13))))
                (i32.store offset=8 (i32.const {RETURNED}) (i32.const 7))
                (call $gone (i32.const 13))
                (i32.wrap_i64 (i64.and (call $long (i32.const 9)) (i64.const 0xffffffff))))
            {exports})"#,
            pages = MEMORY / 65_536,
            last = MEMORY - 1,
            room = GIVEN_END - GIVEN,
            null = realloc::GIVES_NULL,
            last_byte = realloc::GIVES_THE_LAST_BYTE,
            no_memory = realloc::GIVES_NO_MEMORY,
            traps = realloc::TRAPS,
            calls_the_host = realloc::CALLS_THE_HOST,
            unaligned = realloc::GIVES_UNALIGNED,
            grows = realloc::GROWS,
            grows_too_much = realloc::GROWS_TOO_MUCH,
            loops = realloc::LOOPS,
            pointer = PROPERTY + 4,
            length = PROPERTY + 8,
            PROPERTY_NONE = RETURNED + 16,
        )
    }

    /// The phases, `configure` and the self-test. What they were lent they drop, unless the program says that they don't.
    fn exports(&self) -> String {
        let mut exports = String::new();
        let mut phase = 1u32;
        for (key, item) in &self.resolve.worlds[self.world].exports {
            let WorldItem::Interface { id, .. } = item else { panic!("a world of interfaces: {item:?}") };
            for func in self.resolve.interfaces[*id].functions.values() {
                let name = |kind| {
                    let export = WasmExport::Func { interface: Some(key), func, kind };
                    self.resolve.wasm_export_name(ABI, export)
                };
                let signature = self.resolve.wasm_signature(AbiVariant::GuestExport, func);
                let (own, after) = (name(WasmExportKind::Normal), name(WasmExportKind::PostReturn));
                let types = "i32 ".repeat(signature.params.len());
                let result = if signature.results.is_empty() { "" } else { "(result i32)" };
                let mut params = Vec::new();
                func.params.iter().for_each(|param| self.flatten(&param.ty, &mut params));
                let (mut lent, mut dropped, mut at) = (String::new(), String::new(), 0);
                for param in &params {
                    if let Param::Handle { kind, .. } = param {
                        writeln!(lent, "(call $keep (i32.const {kind}) (local.get {at}))").unwrap();
                        let name = self.resolve.types[self.resources[*kind as usize]].name.as_deref().unwrap();
                        let drop = self.function(&format!("[resource-drop]{name}"));
                        let register = REGISTERS + 4 * u32::from(*kind);
                        writeln!(
                            dropped,
                            "(if (i32.load (i32.const {register})) (then
                                (call $f{drop} (i32.load (i32.const {register})))
                                (call $keep (i32.const {STALE}) (i32.load (i32.const {register})))
                                (i32.store (i32.const {register}) (i32.const 0))))"
                        )
                        .unwrap();
                    }
                    at += param.slots();
                }
                let begun = match &*func.name {
                    // A configuration that is a string is a program, without its quotes.
                    "configure" => {
                        "(global.set $end (i32.const 0))
                        (if (i32.eq (i32.load8_u (local.get 0)) (i32.const 34)) (then
                            (call $read (i32.add (local.get 0) (i32.const 1))
                                (i32.sub (local.get 1) (i32.const 2)))))"
                    }
                    "run" => "(global.set $end (i32.const 0))",
                    _ => "(call $fetch (local.get 0))",
                };
                // Those two come before any phase, and have the first bit.
                let bit = if matches!(&*func.name, "configure" | "run") { 1 } else { phase };
                let returned =
                    if result.is_empty() { String::new() } else { format!("(call $return (i32.const {bit}))") };
                writeln!(
                    exports,
                    r#"(func (export "{own}") (param {types}) {result}
                        {lent} {begun}
                        (call $run (i32.const {bit}))
                        (if (i32.eqz (i32.and (i32.const {bit}) (if (result i32) (global.get $end)
                            (then (call $byte (i32.const 2))) (else (i32.const 0))))) (then {dropped} (nop)))
                        {returned})"#
                )
                .unwrap();
                if !result.is_empty() {
                    writeln!(exports, r#"(func (export "{after}") (param i32) (call $after))"#).unwrap();
                }
                if !matches!(&*func.name, "configure" | "run") {
                    phase <<= 1;
                }
            }
        }
        exports
    }
}

impl Param {
    pub(crate) fn slots(self) -> usize {
        if matches!(self, Param::Text | Param::Bytes | Param::Pairs | Param::Floats) { 2 } else { 1 }
    }
}

impl Function {
    /// The call itself, with what of its handles there is after it.
    fn call(&self, index: usize) -> String {
        let at = |slot: usize| format!("(i32.add (local.get $at) (i32.const {}))", 2 + 9 * slot);
        let lacks: String =
            (0..self.core.len()).map(|slot| format!("(br_if $next (call $lacks {}))", at(slot))).collect();
        let value = |(slot, core): (usize, &WasmType)| {
            let value = format!("(call $slot {})", at(slot));
            match core_type(*core) {
                "i64" => value,
                "f64" => format!("(f64.reinterpret_i64 {value})"),
                _ => format!("(i32.wrap_i64 {value})"),
            }
        };
        let values: String = self.core.iter().enumerate().map(value).collect();
        let call = format!("(call $f{index} {values})");
        let (mut gone, mut slot) = (String::new(), 0);
        for param in &self.params {
            if let Param::Handle { owned: true, .. } = param {
                write!(gone, "(call $gone {})", at(slot)).unwrap();
            }
            slot += param.slots();
        }
        let result = format!("(i32.wrap_i64 (call $slot {}))", at(self.core.len().saturating_sub(1)));
        match self.gives {
            Gives::Nothing => format!("{lacks} {call} {gone}"),
            Gives::Number(_) => format!("{lacks} (drop {call}) {gone}"),
            Gives::Handle(kind) => format!("{lacks} (call $keep (i32.const {kind}) {call}) {gone}"),
            Gives::Either(ok, err) => {
                let keep = |kind: Option<u8>| {
                    let kept = |kind| format!("(call $keep (i32.const {kind}) (i32.load offset=4 {result}))");
                    kind.map_or("(nop)".to_owned(), kept)
                };
                let (ok, err) = (keep(ok), keep(err));
                format!("{lacks} {call} {gone} (if (i32.load8_u {result}) (then {err}) (else {ok}))")
            }
        }
    }
}

fn core_type(core: WasmType) -> &'static str {
    match core {
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
        WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
    }
}

/// Texts that functions know.
pub(crate) const TEXTS: &[&str] = &[
    "x-a",
    "X-Upper",
    "content-length",
    "host",
    "no name",
    "",
    "1",
    "a\r\nb: c",
    "/path",
    "/a?b",
    "no slash",
    "a=b",
    "a b",
    "client.address",
    "limits",
    "none",
    "token",
    "seen",
    "depth",
    "a-b",
    "key",
    "GET",
    "CONNECT",
    "G T",
    "backend",
    "backend1",
    "example.com:80",
    "user@example.com",
    "etag",
    "caf\u{e9}",
];

/// Bytes that are no UTF-8.
pub(crate) const NO_TEXT: (u64, u64) = (DATA as u64 + 4_096, 4);
/// So many letters; and where zeros begin.
pub(crate) const LETTERS: (u64, u64) = (0x1_0000, 70_000);
pub(crate) const ZEROS: u64 = 0x4_0000;
/// Pairs of texts: two that are in order, then one whose second text lies outside of the memory.
pub(crate) const PAIRS: u64 = DATA as u64 + 8_192;
/// Bounds that ascend, then one that does not, one that is no number.
pub(crate) const FLOATS: u64 = DATA as u64 + 9_216;
/// As many pairs of the same 64 KiB as make 4 GiB of it.
pub(crate) const MANY_PAIRS: (u64, u64) = (0x10_0000, 32_768);

/// Where each of [`TEXTS`] is, and its length.
pub(crate) fn texts() -> Vec<(u64, u64)> {
    let mut at = u64::from(DATA);
    let place = |text: &&str| {
        let place = (at, text.len() as u64);
        at += place.1 + 1;
        place
    };
    TEXTS.iter().map(place).collect()
}

/// Where a text is, and its length.
pub(crate) fn place_of(text: &str) -> (u64, u64) {
    texts()[TEXTS.iter().position(|known| *known == text).expect("a text")]
}

fn data() -> String {
    let words = |words: &[(u64, u64)]| -> Vec<u8> {
        let words = words.iter().flat_map(|(at, length)| [*at as u32, *length as u32]);
        words.flat_map(u32::to_le_bytes).collect()
    };
    let floats = [1.0, 10.0, 5.0, f64::NAN].map(f64::to_le_bytes).concat();
    let outside = (MEMORY - 2, 8);
    let many = vec![(LETTERS.0, 65_536); 2 * MANY_PAIRS.1 as usize];
    let mut pieces = vec![
        (NO_TEXT.0, vec![0xff, 0xc3, 0x28, 0xed]),
        (LETTERS.0, vec![b'a'; LETTERS.1 as usize]),
        (PAIRS, words(&[place_of("key"), place_of("1"), place_of("seen"), place_of("x-a"), place_of("a-b"), outside])),
        (FLOATS, floats),
        (MANY_PAIRS.0, words(&many)),
    ];
    pieces.extend(texts().iter().zip(TEXTS).map(|((at, _), text)| (*at, text.as_bytes().to_vec())));
    let mut data = String::new();
    for (at, bytes) in pieces {
        let bytes: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        writeln!(data, r#"(data (i32.const {at}) "{bytes}")"#).unwrap();
    }
    data
}
