"""Keys of a quantization_config: those that are read, and those that change no byte of the weights.

Source:
    transformers 5.23, utils/quantization_config.py; compressed-tensors 0.12, config/base.py; modelopt 0.43,
    export/quant_utils.py; GPTQModel 4, quantization/config.py; auto-round 0.8, export; exllamav2 and
    exllamav3, convert.
"""

from collections.abc import Iterable, Mapping

from vramcalc.sources._config.dialect import words

_LISTS = words("modules_to_not_convert ignore exclude_modules llm_int8_skip_modules")
_MODELOPT = words("quant_algo quantized_layers group_size config_groups") | words(
    "producer kv_cache_quant_algo kv_cache_scheme moe_quant_algo has_zero_point pre_quant_scale activation_scheme "
    "quantization_status format version"
)
_FP8 = _MODELOPT | words("weight_block_size fmt scale_fmt dequantize activation_scale_ub bits")
_INTEGERS = words("bits w_bit group_size q_group_size desc_act lm_head dynamic") | words(
    # how it was made, or which kernel runs it
    "sym zero_point version backend checkpoint_format meta pack_dtype quantizer true_sequential static_groups mse "
    "damp_percent damp_auto_increment batch_size dataset tokenizer block_name_to_quantize "
    "module_name_preceding_first_block model_seqlen model_name_or_path model_file_base_name max_input_length "
    "cache_block_outputs pad_token_id use_cuda_fp16 use_exllama disable_exllama exllama_config exllama "
    "is_marlin_format do_fuse fuse_max_seq_len modules_to_fuse format act_group_aware parallel_packing lm_head_name "
    "offload_to_disk rotation uri v2 v2_alpha"
)
_AUTO_ROUND = _INTEGERS | words(
    "packing_format autoround_version data_type iters seqlen nsamples low_gpu_mem_usage enable_quanted_input "
    "enable_minmax_tuning enable_norm_bias_tuning lr minmax_lr scale_dtype gradient_accumulate_steps amp "
    "to_quant_block_names supported_types super_bits super_group_size act_bits act_data_type act_dynamic "
    "act_group_size act_sym not_use_best_mse dynamic_max_gap enable_torch_compile enable_alg_ext"
)
_BITSANDBYTES = words("load_in_8bit load_in_4bit bnb_4bit_quant_type bnb_4bit_use_double_quant") | words(
    "_load_in_8bit _load_in_4bit bnb_4bit_compute_dtype bnb_4bit_quant_storage llm_int8_enable_fp32_cpu_offload "
    "llm_int8_has_fp16_weight llm_int8_threshold"
)
_COMPRESSED = words("config_groups format sparsity_config") | words(
    "kv_cache_scheme global_compression_ratio quantization_status version run_compressed dequantize compression_ratio"
)
_EXL = words("bits head_bits") | words("version calibration out_scales codebook")

_KNOWN: Mapping[str, frozenset[str]] = {
    "fp8": _FP8,
    "fbgemm_fp8": _FP8,
    "awq": _INTEGERS,
    "gptq": _INTEGERS,
    "mxfp4": words("dequantize"),
    "modelopt": _MODELOPT,
    "modelopt_fp4": _MODELOPT,
    "modelopt_mixed": _MODELOPT,
    "compressed-tensors": _COMPRESSED,
    "bitsandbytes": _BITSANDBYTES,
    "auto-round": _AUTO_ROUND,
    "exl2": _EXL,
    "exl3": _EXL,
}


def unknown_key(method: str, keys: Iterable[str]) -> str | None:
    """Return the first key that may change what the method stores; MLX's keys are also the paths of modules."""
    known = _KNOWN.get(method)
    if known is None:
        return None
    return next((key for key in keys if key not in known | _LISTS and key != "quant_method"), None)
