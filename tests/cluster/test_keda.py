from cluster.keda import without_cases

SWITCH = """\
	switch triggerType {
	case "activemq":
		return scalers.NewActiveMQScaler(config)
	case "cpu":
		return scalers.NewCPUMemoryScaler(corev1.ResourceCPU, config)
	// a remark
	case "redis":
		return scalers.NewRedisScaler(ctx, false, false, config)
	default:
		return nil, fmt.Errorf("no scaler found for type: %s", triggerType)
	}
"""
FILES = ["func NewCPUMemoryScaler(\n\tresource v1.ResourceName)", "// func NewRedisScaler(\nfunc parse(x int)"]


def test_the_switch_of_keda_keeps_the_cases_whose_scaler_is_there():
    assert without_cases(SWITCH, FILES) == (
        "\tswitch triggerType {\n"
        '\tcase "cpu":\n'
        "\t\treturn scalers.NewCPUMemoryScaler(corev1.ResourceCPU, config)\n"
        "\t// a remark\n"
        "\tdefault:\n"
        '\t\treturn nil, fmt.Errorf("no scaler found for type: %s", triggerType)\n'
        "\t}\n"
    )
    assert without_cases(SWITCH, []).count("case") == 0
