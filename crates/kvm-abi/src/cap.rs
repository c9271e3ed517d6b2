//! Capabilities of KVM_CHECK_EXTENSION and KVM_ENABLE_CAP: those that arm64 knows.

macro_rules! caps {
    ($($name:ident = $n:literal,)*) => {
        $(#[doc = concat!("KVM_CAP_", stringify!($name), ".")] pub const $name: u32 = $n;)*
        /// Every capability of this list by name.
        pub const ALL: &[(&str, u32)] = &[$((stringify!($name), $n),)*];
    };
}

caps! {
    IRQCHIP = 0,
    USER_MEMORY = 3,
    NR_VCPUS = 9,
    NR_MEMSLOTS = 10,
    MP_STATE = 14,
    COALESCED_MMIO = 15,
    SYNC_MMU = 16,
    DESTROY_MEMORY_REGION_WORKS = 21,
    USER_NMI = 22,
    SET_GUEST_DEBUG = 23,
    IRQ_ROUTING = 25,
    JOIN_MEMORY_REGIONS_WORKS = 30,
    IRQFD = 32,
    IOEVENTFD = 36,
    INTERNAL_ERROR_DATA = 40,
    VCPU_EVENTS = 41,
    ENABLE_CAP = 54,
    MAX_VCPUS = 66,
    ONE_REG = 70,
    SIGNAL_MSI = 77,
    READONLY_MEM = 81,
    IRQFD_RESAMPLE = 82,
    ARM_PSCI = 87,
    ARM_SET_DEVICE_ADDR = 88,
    DEVICE_CTRL = 89,
    ARM_EL1_32BIT = 93,
    ENABLE_CAP_VM = 98,
    VM_ATTRIBUTES = 101,
    ARM_PSCI_0_2 = 102,
    CHECK_EXTENSION_VM = 105,
    GUEST_DEBUG_HW_BPS = 119,
    GUEST_DEBUG_HW_WPS = 120,
    IOEVENTFD_ANY_LENGTH = 122,
    ARM_PMU_V3 = 126,
    VCPU_ATTRIBUTES = 127,
    MAX_VCPU_ID = 128,
    MSI_DEVID = 131,
    IMMEDIATE_EXIT = 136,
    ARM_USER_IRQ = 144,
    ARM_INJECT_SERROR_ESR = 158,
    COALESCED_PIO = 162,
    ARM_VM_IPA_SIZE = 165,
    MANUAL_DIRTY_LOG_PROTECT2 = 168,
    ARM_SVE = 170,
    ARM_PTRAUTH_ADDRESS = 171,
    ARM_PTRAUTH_GENERIC = 172,
    ARM_IRQ_LINE_LAYOUT_2 = 174,
    ARM_NISV_TO_USER = 177,
    ARM_INJECT_EXT_DABT = 178,
    HALT_POLL = 182,
    STEAL_TIME = 187,
    DIRTY_LOG_RING = 192,
    SET_GUEST_DEBUG2 = 195,
    PTP_KVM = 198,
    BINARY_STATS_FD = 203,
    ARM_MTE = 205,
    SYSTEM_EVENT_DATA = 215,
    ARM_SYSTEM_SUSPEND = 216,
    DIRTY_LOG_RING_ACQ_REL = 223,
    DIRTY_LOG_RING_WITH_BITMAP = 225,
    COUNTER_OFFSET = 227,
    ARM_EAGER_SPLIT_CHUNK_SIZE = 228,
    ARM_SUPPORTED_BLOCK_SIZES = 229,
    ARM_SUPPORTED_REG_MASK_RANGES = 230,
    USER_MEMORY2 = 231,
    ARM_WRITABLE_IMP_ID_REGS = 239,
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_in_order_and_differ() {
        assert!(super::ALL.windows(2).all(|w| w[0].1 < w[1].1));
        assert_eq!(super::ALL.len(), 66);
    }
}
